"""The DICOM files that a node keeps of a job, over HTTP: the series before and after denoising, and its noise.

They are kept as long as the job: `--keep` days after its last delivery.
"""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Path, Query
from fastapi.responses import FileResponse
from starlette.exceptions import HTTPException

from ctbasis.node.dicomweb import LARGEST_NUMBER
from ctbasis.node.job_status import JobFiles, Kind
from ctbasis.node.queue import JobState
from ctbasis.node.stow import FILE
from ctbasis.node.task import noise_folder, results_of, volume_folder

if TYPE_CHECKING:
    import pathlib

    from ctbasis.node.queue import Job, Queue

ERRORS: dict[int | str, dict[str, Any]] = {
    404: {"description": "There is no such job, or no longer; or it has no such volume or file."},
    409: {"description": "The job is not done."},
    410: {"description": "Its files were removed."},
}

Number = Annotated[int, Path(ge=0, le=LARGEST_NUMBER, description="Number of the job")]
Index = Annotated[int, Path(ge=1, le=LARGEST_NUMBER, description="Number of the file, from 1")]
VolumeNumber = Annotated[
    int, Query(ge=1, le=LARGEST_NUMBER, description="Number of the volume, where the series had several")
]


@dataclass(frozen=True)
class KeptFiles:
    """The files of jobs that are done.

    Attributes:
        queue: What was received and is to be denoised.
        inbox: Folder of received instances.
        results: Folder of the results of jobs.
    """

    queue: Queue
    inbox: pathlib.Path
    results: pathlib.Path

    def done(self, number: int) -> Job:
        """Return a job that is done.

        Raises:
            HTTPException: There is no such job (404), or it is not done (409).
        """
        job = self.queue.job(number)
        if job is None:
            raise HTTPException(HTTPStatus.NOT_FOUND, "there is no such job, or no longer")
        if job.state is not JobState.DONE:
            raise HTTPException(HTTPStatus.CONFLICT, f"the job is {job.state}")
        return job

    def files(self, job: Job, volume: int, kind: Kind) -> list[pathlib.Path]:
        """Return the files of one kind, in the order of their names.

        Raises:
            HTTPException: The job has no such volume (404).
        """
        volumes = len(job.record["volumes"])
        if volume > volumes:
            raise HTTPException(HTTPStatus.NOT_FOUND, f"the job has {volumes} volumes")
        if kind == "before":
            return [self.inbox / file for file in self.queue.files(job)]
        of = volume_folder if kind == "after" else noise_folder
        return sorted(of(results_of(self.results, job.id), volume).glob("*.dcm"))


def files_router(kept: KeptFiles) -> APIRouter:
    """Return the routes of the files.

    Args:
        kept: The files of jobs.
    """
    router = APIRouter(tags=["jobs"])

    @router.get("/jobs/{number}/files", responses=ERRORS)
    def count_files(number: Number, volume: VolumeNumber = 1) -> JobFiles:
        """Return how many files there are of one volume of a job that is done."""
        job = kept.done(number)
        before, after, sigma = (len(kept.files(job, volume, kind)) for kind in ("before", "after", "sigma"))
        if not before or not after:
            raise HTTPException(HTTPStatus.GONE, "the files of the job were removed")
        return JobFiles(volumes=len(job.record["volumes"]), before=before, after=after, sigma=sigma)

    @router.get("/jobs/{number}/files/{kind}/{index}", responses={**ERRORS, 200: {"content": {FILE: {}}}})
    def get_file(number: Number, kind: Kind, index: Index, volume: VolumeNumber = 1) -> FileResponse:
        """Return a DICOM file: of the series before or after denoising, or of the maps of its noise."""
        files = kept.files(kept.done(number), volume, kind)
        if index > len(files):
            raise HTTPException(HTTPStatus.NOT_FOUND, f"the job has {len(files)} such files")
        if not files[index - 1].is_file():
            raise HTTPException(HTTPStatus.GONE, "the files of the job were removed")
        return FileResponse(files[index - 1], media_type=FILE, headers={"Cache-Control": "no-store"})

    return router
