"""The work of a worker process: take the series of a job through the steps of the pipeline.

The steps are those of `ctbasis run`: the programs of ctbasis/steps, called in one process that lives on.
"""

from __future__ import annotations

import os
import shutil
import time
import uuid
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctbasis.cohort.record import SeriesRecord, State, failed
from ctbasis.cohort.results import Destination, WrittenSeries, fresh, publish_alone, publish_together
from ctbasis.errors import CtbasisError
from ctbasis.jobs.placement import Placement
from ctbasis.parameters import DeidentificationPlan, OutputPlan, SvdPlan
from ctbasis.steps import matrix, reconstruct, report, svd

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ctbasis.steps.reconstruct import DerivedSeries
    from ctbasis.steps.svd import StepResult


@dataclass(frozen=True)
class Member:
    """A series of a job.

    Attributes:
        record: Its record before it is denoised.
        source: Folder with its fetched files.
        published: Whether its result is in place from an earlier run, and neither it nor a parameter has changed.
    """

    record: SeriesRecord
    source: Path
    published: bool = False


@dataclass(frozen=True)
class Task:
    """What a worker needs in order to denoise a job.

    Attributes:
        members: The series whose objects were fetched.
        workspace: Folder for everything that the steps write; the caller removes it.
        out: Folder or `s3://bucket/prefix` of the cohort's results.
        group: Folder below `out` for what joined series share; empty for one series.
        plan: Parameters of the svd step.
        deidentification: Parameters of the matrix step.
        output: Parameters of the reconstruct step.
        known_by: Digests by which a later run knows the series: `stamp`, `content`, `settings`.
        seconds: Time in seconds that the fetch took.
    """

    members: tuple[Member, ...]
    workspace: Path
    out: str
    group: str
    plan: SvdPlan
    deidentification: DeidentificationPlan
    output: OutputPlan
    known_by: dict[str, str]
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Return the task as a JSON object."""
        return {
            "members": [
                {"record": one.record.to_json(), "source": str(one.source), "published": one.published}
                for one in self.members
            ],
            "workspace": str(self.workspace),
            "out": self.out,
            "group": self.group,
            "plan": self.plan.to_json(),
            "deidentification": self.deidentification.to_json(),
            "output": self.output.to_json(),
            "known_by": self.known_by,
            "seconds": self.seconds,
        }

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> Task:
        """Return the task that `to_json` wrote."""
        members = tuple(
            Member(SeriesRecord.from_json(one["record"]), Path(one["source"]), one["published"])
            for one in stored["members"]
        )
        return cls(
            members,
            Path(stored["workspace"]),
            stored["out"],
            stored["group"],
            SvdPlan.from_json(stored["plan"]),
            DeidentificationPlan.from_json(stored["deidentification"]),
            OutputPlan.from_json(stored["output"]),
            stored["known_by"],
            stored["seconds"],
        )


@dataclass
class _Run:
    """One passage through the steps, with the time that each took."""

    task: Task
    folder: Path
    seconds: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.result = fresh(self.folder) / "result"
        self.result.mkdir()

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        start = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - start

    def read(self, source: Path) -> str:
        """Run the matrix step and return the URI of the matrix."""
        with self.step("matrix"):
            done = matrix.run_step(
                source,
                None,
                self.task.deidentification,
                self.result / "qc.json",
                workspace=str(self.folder),
                store="",
                run="",
            )
        return done.matrix

    def factor(self, matrix_uri: str) -> StepResult:
        """Run the svd step."""
        with self.step("svd"):
            return svd.run_step(
                matrix_uri,
                self.task.plan,
                self.result / "basis",
                workspace=str(self.folder),
                store="",
                run=f"cohort-{uuid.uuid4().hex}",
                placement=Placement(),
            )

    def destination(self, seconds: float) -> Destination:
        """Return where the results are put.

        Args:
            seconds: Seconds that a series took.
        """
        return Destination(self.task.out, self.task.known_by, self.seconds, seconds)

    def outputs(self, matrix_uri: str, done: StepResult) -> list[DerivedSeries]:
        """Run the steps that write the results."""
        basis, result = str(self.result / "basis"), self.result
        of_other_mode = "basis-images" if self.task.plan.mode == "patch" else "noise"
        with self.step("reconstruct"):
            written = reconstruct.run_step(
                basis,
                done.denoised_matrix,
                result / "denoised",
                self.task.output,
                rank=done.rank,
                basis_images=result / "basis-images",
                noise=result / "noise",
            )
            shutil.rmtree(result / of_other_mode)
        with self.step("report"):
            report.run_step(
                matrix_uri,
                basis,
                done.denoised_matrix,
                {name: result / name for name in ("figure1.png", "report.html", "metrics.json")},
                truth_uri="",
                qc=result / "qc.json",
                rank=done.rank,
                ranks=self.task.plan.global_mode.ranks,
            )
        return written


def denoise(task: Task) -> list[SeriesRecord]:
    """Denoise the series of a job and put their results in place.

    A series that cannot be denoised is failed, with the reason; the others of its group are joined without it.

    Returns:
        The records of the members, in their order.
    """
    start = time.monotonic()
    try:
        records = _denoised(task)
    except Exception as error:  # noqa: BLE001 - whatever one job provokes, the cohort goes on
        records = [failed(one.record, error, one.source) for one in task.members]
    seconds = (time.monotonic() - start + task.seconds) / len(task.members)
    return [replace(record, seconds=seconds) if record.state is State.FAILED else record for record in records]


def learn(task: Task, bases: Path) -> list[SeriesRecord]:
    """Learn patch bases on the series of a task, and copy them to the folder `bases`.

    Returns:
        The records of the members, whose state is FAILED for those that could not be learned on.
    """
    good, bad = _without_bad(task)
    if good:
        run = _Run(task, task.workspace / "learn")
        run.factor(run.read(_joined([task.members[number] for number in good], task.workspace / "sample")))
        shutil.move(run.result / "basis", bases)
    return [bad.get(number, one.record) for number, one in enumerate(task.members)]


def _denoised(task: Task) -> list[SeriesRecord]:
    if not task.group:
        return [_alone(task, task.members[0])]
    if any(one.published for one in task.members):
        # A series of this group failed in an earlier run. Unless it is readable now, the group stays as it is.
        _, bad = _without_bad(task, [number for number, one in enumerate(task.members) if not one.published])
        if all(one.published or number in bad for number, one in enumerate(task.members)):
            return [
                bad.get(number) or replace(one.record, state=State.UNCHANGED) for number, one in enumerate(task.members)
            ]
    everything = list(range(len(task.members)))
    try:
        return _together(task, everything, "all")
    except CtbasisError:
        good, bad = _without_bad(task)
        if not bad or not good:
            raise
        done = dict(zip(good, _together(task, good, "good"), strict=True))
        return [bad.get(number) or done[number] for number in everything]


def _without_bad(task: Task, numbers: Sequence[int] | None = None) -> tuple[list[int], dict[int, SeriesRecord]]:
    """Read members one by one; return the numbers of those that can be read, and the records of the others."""
    good, bad = [], {}
    for number in range(len(task.members)) if numbers is None else numbers:
        one = task.members[number]
        folder = task.workspace / f"alone-{number}"
        try:
            _Run(task, folder).read(one.source)
            good.append(number)
        except Exception as error:  # noqa: BLE001 - one bad series costs itself
            bad[number] = failed(one.record, error, one.source)
        shutil.rmtree(folder, ignore_errors=True)
    return good, bad


def _joined(members: Sequence[Member], folder: Path) -> Path:
    """Link the files of several series into one folder with a folder each; return it."""
    fresh(folder)
    for number, one in enumerate(members):
        shutil.copytree(one.source, folder / f"{number:04d}", copy_function=_link)
    return folder


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        # The file system has no hard links.
        shutil.copyfile(source, target)


def _alone(task: Task, one: Member) -> SeriesRecord:
    start = time.monotonic()
    run = _Run(task, task.workspace / "run")
    A = run.read(one.source)
    run.outputs(A, run.factor(A))
    return publish_alone(run.result, one.record, run.destination(time.monotonic() - start + task.seconds))


def _together(task: Task, numbers: Sequence[int], name: str) -> list[SeriesRecord]:
    """Denoise members as one matrix, and put their results in place."""
    start = time.monotonic()
    members = [task.members[number] for number in numbers]
    run = _Run(task, task.workspace / name)
    source = _joined(members, task.workspace / f"{name}-source")
    A = run.read(source)
    shutil.rmtree(source)
    written = [WrittenSeries(one.source, one.folder) for one in run.outputs(A, run.factor(A))]
    destination = run.destination((time.monotonic() - start + task.seconds) / len(members))
    records = [one.record for one in members]
    return publish_together(run.result, written, records, task.group, destination, task.workspace / f"{name}-parts")
