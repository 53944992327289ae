"""A running node as `ctbasis view` sees it: its jobs, and the files of one, which are fetched over HTTP."""

from __future__ import annotations

from contextlib import contextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel, ValidationError

from ctbasis.errors import CtbasisError
from ctbasis.node.job_status import JobFiles, JobList
from ctbasis.node.listing import table
from ctbasis.node.queue import Job
from ctbasis.progress import progress
from ctbasis.sources.dicomweb_server import TOKEN, DicomwebServer
from ctbasis.sources.http import BUSY, raw_content
from ctbasis.sources.retries import LISTING_ATTEMPTS, repeat
from ctbasis.storage.working_folder import scratch_folder
from ctbasis.viewer.result import open_series

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import requests

    from ctbasis.node.job_status import Kind
    from ctbasis.viewer.result import Result

HANDLED = tuple(set(range(HTTPStatus.BAD_REQUEST, HTTPStatus.INTERNAL_SERVER_ERROR)) - BUSY)
"""Error statuses that `RunningNode` explains itself; the others may pass with another attempt."""

MOST_FILES = 100_000
"""Files of one kind that are fetched, at most."""

PIECE = 1 << 20

Answer = TypeVar("Answer", bound=BaseModel)


class RunningNode:
    """The HTTP server of a running node.

    Args:
        address: Its address, `http://host:port` or with https.

    Raises:
        CtbasisError: The address is none.
    """

    def __init__(self, address: str) -> None:
        self._server = DicomwebServer(address, what="the node", needs="to read its jobs", connections=1, passed=HANDLED)

    def job_lines(self) -> list[str]:
        """Return the newest jobs, the newest first, as the lines of a table with a head.

        Raises:
            CtbasisError: The node does not answer, refuses the token, or is no node.
        """
        listed = self._ask("/jobs", JobList)
        keys = Job.__dataclass_fields__
        return table(
            (Job(**{key: value for key, value in vars(job).items() if key in keys}), job.deliveries)
            for job in listed.jobs
        )

    @contextmanager
    def fetched(self, job: int, volume: int = 1) -> Iterator[Result]:
        """Yield the series of a job before and after denoising; its files are removed when the context ends.

        Args:
            job: Number of the job.
            volume: Number of the volume, where its series had several, from 1.

        Raises:
            CtbasisError: See `job_lines`; or there is no such job or volume, it is not done, its files were removed, or
                the disk is full.
        """
        counts = self._ask(f"/jobs/{job}/files?volume={volume}", JobFiles)
        numbers: dict[Kind, int] = {"before": counts.before, "after": counts.after, "sigma": counts.sigma}
        if max(numbers.values()) > MOST_FILES:
            raise self._foreign(f"says that a job has more than {MOST_FILES:,} files")
        with scratch_folder("ctbasis-view") as scratch:
            wanted = [(kind, index) for kind, count in numbers.items() for index in range(1, count + 1)]
            try:
                for kind, index in progress(wanted, "fetch", unit="file"):
                    (scratch / kind).mkdir(exist_ok=True)
                    file = scratch / kind / f"slice-{index:04d}.dcm"
                    self._fetch(f"/jobs/{job}/files/{kind}/{index}?volume={volume}", file)
            except OSError as error:
                raise CtbasisError(
                    f"the files of job {job} cannot be stored ({error.strerror or type(error).__name__})",
                    expected=f"room for {len(wanted)} DICOM files in the folder for temporary files",
                    cause="the disk is full",
                    remedy="free space, or set TMPDIR to a folder with more",
                ) from None
            yield open_series(
                scratch / "before", scratch / "after", scratch / "sigma" if counts.sigma else None, number=volume
            )

    def _ask(self, path: str, model: type[Answer]) -> Answer:
        site = self._server.site
        answer = repeat(lambda: site.get(f"{self._server.base}{path}"), self._unreachable, attempts=LISTING_ATTEMPTS)
        self._refuse(answer)
        try:
            return model.model_validate_json(answer.content)
        except ValidationError:
            raise self._foreign(f"does not answer what {path.partition('?')[0]} of a node answers") from None

    def _fetch(self, path: str, file: Path) -> None:
        def attempt() -> None:
            with self._server.site.content(f"{self._server.base}{path}") as answer:
                self._refuse(answer)
                with file.open("wb") as stream:
                    for piece in raw_content(answer, PIECE):
                        stream.write(piece)

        repeat(attempt, self._unreachable)

    def _refuse(self, answer: requests.Response) -> None:
        """Raise the error for an answer with an error status, or a redirection."""
        status = answer.status_code
        if status == HTTPStatus.OK:
            return
        node = self._server.site.server
        if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
            raise CtbasisError(
                f"the node at {node} refuses the token ({status})",
                expected=f"{TOKEN} with the value of CTBASIS_HTTP_TOKEN of the node",
                cause=f"{TOKEN} is not set, or is that of another server",
                remedy=f"set {TOKEN}",
            )
        found = _reason(answer)
        if status == HTTPStatus.CONFLICT and found:
            raise CtbasisError(
                f"the node at {node} has no result of this job: {found}",
                expected="a job that is done",
                cause="it waits or runs, or its series could not be denoised, for the reason in its record",
                remedy="look at the list of jobs: the same command without --job; wait, or choose another job",
            )
        if status in {HTTPStatus.NOT_FOUND, HTTPStatus.GONE} and found:
            raise CtbasisError(
                f"the node at {node} has not what was asked for: {found}",
                expected="--job with the number of a job whose files the node keeps, and --series of its volumes",
                cause="the number is another, or the node has removed the job: it keeps one for --keep days after its "
                "last delivery",
                remedy="look at the list of jobs: the same command without --job; after that time, pull both series "
                "from the archive",
            )
        raise self._foreign(f"answers {status}")

    def _foreign(self, fault: str) -> CtbasisError:
        return CtbasisError(
            f"the server at {self._server.site.server} {fault}",
            expected="the HTTP server of a node of this version (`ctbasis node --http-port`)",
            cause="the address is that of another server, or of a node of another version",
            remedy="check the address",
        )

    def _unreachable(self, reason: str) -> CtbasisError:
        return CtbasisError(
            f"the node at {self._server.site.server} does not answer ({reason})",
            expected="a running node with --http-port at this address",
            cause="it does not run, the address is wrong, or a proxy or firewall blocks it",
            remedy="check the address, and whether the node runs",
        )


class _Refusal(BaseModel):
    error: str


KNOWN = ("there is no such job", "the job is ", "the job has ", "the files of the job ")
"""How the reasons of a node begin; others are those of another server, and are not repeated."""


def _reason(answer: requests.Response) -> str:
    try:
        found = _Refusal.model_validate_json(answer.content).error
    except ValidationError:
        return ""
    return found if found.startswith(KNOWN) else ""
