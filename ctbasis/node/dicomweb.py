"""The node over HTTP: STOW-RS, and the status of its jobs."""

from __future__ import annotations

import asyncio
import json
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response
from starlette.exceptions import HTTPException

from ctbasis.node import native_xml
from ctbasis.node.inbox import UID
from ctbasis.node.job_status import JobList, JobStatus
from ctbasis.node.queue import JobState  # noqa: TC001 - FastAPI evaluates the annotations
from ctbasis.node.stow import FILE, Reception
from ctbasis.sources.multipart import MultipartError
from ctbasis.web.body import Limits, pieces

if TYPE_CHECKING:
    from ctbasis.node.inbox import Inbox
    from ctbasis.node.outgoing import Outgoing
    from ctbasis.node.queue import Job, Queue
    from ctbasis.node.stow import Studies

JSON, XML = "application/dicom+json", "application/dicom+xml"

RETRY_SECONDS = 60
"""Seconds after which a client may try again when the disk is full."""

MOST_JOBS = 1000

LARGEST_NUMBER = 2**63 - 1
"""Largest number of a job that SQLite can have."""

REQUEST_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            'multipart/related; type="application/dicom"': {"schema": {"type": "string", "format": "binary"}},
            FILE: {"schema": {"type": "string", "format": "binary"}},
        },
    }
}

ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"description": "All instances are stored.", "content": {JSON: {}, XML: {}}},
    202: {"description": "Some instances are stored; FailedSOPSequence has the others.", "content": {JSON: {}}},
    400: {"description": "The body is no multipart message, or ends early."},
    409: {"description": "No instance is stored; FailureReason of each says why.", "content": {JSON: {}}},
    413: {"description": "The body is larger than the limit."},
    415: {"description": "The content type is another."},
    503: {"description": "The disk is full or fails.", "content": {JSON: {}}},
}


def stow_router(inbox: Inbox, studies: Studies, limits: Limits) -> APIRouter:
    """Return the routes of STOW-RS.

    Args:
        inbox: Where instances go.
        studies: Studies of requests in work.
        limits: Limits of a request.
    """
    router = APIRouter(prefix="/dicom-web", tags=["DICOMweb"])

    async def store(request: Request, study: str) -> Response:
        sender = request.client.host if request.client is not None else ""
        try:
            with studies.request() as busy:
                reception = Reception(
                    inbox, request.headers.get("content-type", ""), study=study, sender=sender, studies=busy
                )
                try:
                    async for piece in pieces(request, limits):
                        # The disk, and the decoding of headers, must not stop other requests.
                        await asyncio.to_thread(reception.feed, piece)
                    await asyncio.to_thread(reception.finish)
                finally:
                    reception.close()
        except MultipartError as error:
            is_type = not request.headers.get("content-type", "").lower().startswith("multipart/related")
            status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE if is_type else HTTPStatus.BAD_REQUEST
            raise HTTPException(status, f"the request {error}") from None
        return _answer(reception, request.headers.get("accept", ""))

    @router.post("/studies", responses=ANSWERS, openapi_extra=REQUEST_BODY, response_class=Response)
    async def store_instances(request: Request) -> Response:
        """Store instances of any studies (STOW-RS)."""
        return await store(request, "")

    @router.post("/studies/{study}", responses=ANSWERS, openapi_extra=REQUEST_BODY, response_class=Response)
    async def store_instances_of_study(
        request: Request, study: Annotated[str, Path(pattern=f"^{UID.pattern}$", description="StudyInstanceUID")]
    ) -> Response:
        """Store instances of one study (STOW-RS)."""
        return await store(request, study)

    return router


def jobs_router(queue: Queue, outgoing: Outgoing) -> APIRouter:
    """Return the routes of the jobs' status.

    Args:
        queue: What was received and is to be denoised.
        outgoing: What is to be sent.
    """
    router = APIRouter(tags=["jobs"])

    @router.get("/jobs")
    def list_jobs(
        study: Annotated[str, Query(description="StudyInstanceUID")] = "",
        state: Annotated[JobState | None, Query()] = None,
        before: Annotated[
            int | None, Query(ge=0, le=LARGEST_NUMBER, description="Only jobs with smaller numbers, for the next page")
        ] = None,
        limit: Annotated[int, Query(ge=1, le=MOST_JOBS)] = 100,
    ) -> JobList:
        """Return jobs, the newest first."""
        found = queue.newest_jobs(study=study, state=state, before=before, limit=limit)
        return JobList(jobs=[status_of(job, outgoing) for job in found])

    @router.get("/jobs/{number}", responses={404: {"description": "There is no such job."}})
    def get_job(number: Annotated[int, Path(ge=0, le=LARGEST_NUMBER)]) -> JobStatus:
        """Return a job."""
        job = queue.job(number)
        if job is None:
            raise HTTPException(HTTPStatus.NOT_FOUND, "there is no such job")
        return status_of(job, outgoing)

    return router


def status_of(job: Job, outgoing: Outgoing) -> JobStatus:
    """Return the status of a job."""
    return JobStatus(**vars(job), progress=job.progress, deliveries=outgoing.counts(job.id))


def _answer(reception: Reception, accepted: str) -> Response:
    headers = {}
    if reception.status is HTTPStatus.SERVICE_UNAVAILABLE:
        headers["Retry-After"] = str(RETRY_SECONDS)
    ds = reception.answer()
    if XML in accepted and JSON not in accepted:
        return Response(native_xml.encode(ds), reception.status, headers, media_type=XML)
    return Response(json.dumps(ds.to_json_dict()), reception.status, headers, media_type=JSON)
