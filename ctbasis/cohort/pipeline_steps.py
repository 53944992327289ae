"""The programs of the steps that pipeline/cohort.yaml has besides those of one series.

    inventory    before the loop: the jobs, each with a workspace of its own (`ctbasis.steps.job`)
    publish      at the end of each job: its results in the output, its files removed
    summary      after the loop: the summary in the output, and how the run ends

The output is that of `ctbasis cohort`, and the programs are made of the same parts.
"""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctbasis.cohort.outcome import CohortDone, in_order, publishable, series_key, summarize
from ctbasis.cohort.plan import CohortPlan, digest
from ctbasis.cohort.preparation import assignments, checked, inventoried
from ctbasis.cohort.record import SeriesRecord, State, failed
from ctbasis.cohort.results import Destination, WrittenSeries, fresh, publish_alone, publish_together
from ctbasis.cohort.series_fetch import content_of
from ctbasis.cohort.series_row import SeriesRow
from ctbasis.cohort.state import check_settings, known_by, note_settings, settings_digest
from ctbasis.cohort.summary import PAGE
from ctbasis.cohort.template import default_template
from ctbasis.errors import CtbasisError
from ctbasis.jobs.pod import pod_name
from ctbasis.matrix.store import MatrixStore
from ctbasis.parameters import CohortOptions, DeidentificationPlan, OutputPlan, SvdPlan
from ctbasis.printable import say
from ctbasis.sources.listed import read_list, write_list
from ctbasis.steps.job import MEMBERS, create_job, failure_of, job_folders, read_job, run_of_job
from ctbasis.steps.notes import FOLDER, read_notes
from ctbasis.storage.objects import is_s3, open_objects
from ctbasis.storage.working_folder import scratch_folder

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ctbasis.cohort.preparation import Assignment

COHORT = f"{FOLDER}/cohort.json"
"""File in the workspace of the run: its plan, the series, and the records that the inventory determines."""

RECORDS = f"{FOLDER}/records.json"
"""File in the workspace of a job: the records of its series, once they are in place."""

PUBLISHED, FAILED = "published", "failed"
"""How a job ended."""

SOURCE = "source"
"""Folder of the fetched files in the workspace of a job, see `ctbasis.steps.fetch`."""


@dataclass(frozen=True)
class LoopItem:
    """What the loop of the pipeline gives to the steps of one job. It names neither a patient nor an object.

    Attributes:
        source: Source of the fetch step: a list of objects in the workspace of the job.
        workspace: Workspace of the job.
        run: Id of the job.
    """

    source: str
    workspace: str
    run: str


def plan_of(arguments: Mapping[str, Any]) -> CohortPlan:
    """Return the plan of a run from the arguments of its pipeline, by name; other names are ignored.

    Raises:
        CtbasisError: A parameter is missing, or a value is invalid.
    """
    options = CohortOptions.from_arguments(arguments)
    parameters: dict[str, Any] = {}
    for plan in (SvdPlan, DeidentificationPlan, OutputPlan):
        parameters |= plan.from_arguments(arguments).values()
    template = options.template or default_template(deidentified=parameters["deidentify"])
    return CohortPlan(str(arguments["source"]), options.out, template, options.where, parameters=parameters)


def take_inventory(plan: CohortPlan, workspace: Path, run: str, *, again: bool) -> list[dict[str, str]]:
    """List the source and determine the jobs.

    Args:
        plan: The parameters of the run.
        workspace: Root of the run's workspace.
        run: Id of the run.
        again: Whether settings other than those of the output's earlier runs are meant.

    Returns:
        The items of the loop, at least one: if nothing is to be done, it is a job without a series.

    Raises:
        CtbasisError: See `ctbasis.cohort.run.run_cohort`; or the output is a folder of a pod.
    """
    plan = checked(plan)
    if pod_name() and not is_s3(plan.out):
        raise CtbasisError(
            f"the output {plan.out!r} is not on S3",
            expected="s3://bucket/prefix",
            cause="a folder of a pod is gone when the pod ends",
            remedy="name a prefix that the pods can write to",
        )
    check_settings(plan, again=again)
    outcomes: dict[str, SeriesRecord] = {}
    with scratch_folder("ctbasis-inventory") as scratch:
        # An index on a volume that several nodes mount could not be locked.
        rows, series, objects = inventoried(plan, scratch, state=scratch / "index.sqlite")
        note_settings(plan)
        settings = settings_digest(plan, plan.svd.basis)
        items = []
        for number, assignment in enumerate(assignments(plan, series, objects, settings, outcomes), start=1):
            if any(listed.has_archives for listed in assignment.objects):
                outcomes |= _refused(assignment)
            else:
                items.append(_job(workspace, number, assignment, settings, run))
    content = {
        "plan": asdict(plan),
        "rows": [row.to_json() for row in rows],
        "outcomes": [record.to_json() for record in outcomes.values()],
    }
    (workspace / COHORT).parent.mkdir(parents=True, exist_ok=True)
    (workspace / COHORT).write_text(json.dumps(content) + "\n", encoding="utf-8")
    say(f"inventory: {len(rows)} series, {len(outcomes)} of them need no job, {len(items)} jobs")
    if not items:
        items.append(LoopItem("", str(create_job(workspace, 0, {MEMBERS: []})), run))
    return [asdict(item) for item in items]


def _job(workspace: Path, number: int, assignment: Assignment, settings: str, run: str) -> LoopItem:
    job = assignment.job
    records = [SeriesRecord(row=one.row, state=State.NOT_RUN, folder=one.folder) for one in job.series]
    content = {
        MEMBERS: [record.to_json() for record in records],
        "group": job.group,
        "known_by": known_by(job, settings),
    }
    folder = create_job(workspace, number, content)
    lists = [read_list(listed.uri) for listed in assignment.objects]
    entries = [entry for _, objects in lists for entry in objects]
    return LoopItem(write_list(folder / "objects.json", lists[0][0], entries), str(folder), run_of_job(run, folder))


def _refused(assignment: Assignment) -> dict[str, SeriesRecord]:
    error = CtbasisError(
        "it lies in a zip archive, which may hold other series too",
        remedy="unpack the archive, or use `ctbasis cohort` on one machine",
    )
    records = [failed(SeriesRecord(row=one.row, state=State.NOT_RUN), error) for one in assignment.job.series]
    return {series_key(record.row): record for record in records}


def publish_job(folder: Path, out: str, matrix_uri: str, artifacts: Mapping[str, Path]) -> str:
    """Put the results of a job in the output, as a local cohort run does.

    Args:
        folder: Workspace of the job.
        out: `s3://bucket/prefix` of the cohort's results; a folder on one machine.
        matrix_uri: The matrix store.
        artifacts: What the steps wrote, by the name in the result.

    Returns:
        `PUBLISHED`.

    Raises:
        CtbasisError: A series is missing from the matrix, or the output cannot be written.
    """
    if (folder / RECORDS).is_file():
        # The pod of an earlier attempt was lost after all was done.
        return PUBLISHED
    job = read_job(folder)
    records = [SeriesRecord.from_json(stored) for stored in job[MEMBERS]]
    stores = MatrixStore.open(matrix_uri).series
    several = len(stores) > 1
    written = [
        WrittenSeries(one.SeriesInstanceUID, f"series-{number:02d}" if several else "")
        for number, one in enumerate(stores, start=1)
    ]
    steps, seconds = _times(folder)
    digests = {**job["known_by"], "content": digest([content_of(folder / SOURCE)])}
    destination = Destination(_absolute(out), digests, steps, seconds / len(records))
    result = fresh(folder / "result")
    for name, path in artifacts.items():
        (shutil.copytree if path.is_dir() else shutil.copyfile)(path, result / name)
    if job["group"]:
        done = publish_together(result, written, records, job["group"], destination, folder / "parts")
    else:
        done = [publish_alone(result, records[0], destination)]
    # Without the pictures, which the summary reads from the output.
    whole = [replace(record, thumbnail=b"").to_json() for record in done]
    (folder / RECORDS).write_text(json.dumps(whole) + "\n", encoding="utf-8")
    say(f"publish: {', '.join(record.folder for record in done)}")
    return PUBLISHED


def summarize_run(workspace: Path, page: Path) -> dict[str, int]:
    """Write the summary of a run to the output and, as one page, to `page`.

    Args:
        workspace: Root of the run's workspace.
        page: File for the page.

    Returns:
        The number of series by their state.

    Raises:
        CtbasisError: Series failed, and no series is in place; or the output cannot be written.
    """
    start = time.monotonic()
    stored = json.loads((workspace / COHORT).read_text(encoding="utf-8"))
    plan = CohortPlan(**stored["plan"])
    rows = [SeriesRow.from_json(row) for row in stored["rows"]]
    known = [SeriesRecord.from_json(record) for record in stored["outcomes"]]
    known += [record for folder in job_folders(workspace) for record in _records(folder)]
    done = CohortDone(
        plan.out,
        tuple(in_order(rows, {series_key(record.row): record for record in known})),
        time.monotonic() - start,
    )
    summarize(plan, done.records)
    page.write_bytes(open_objects(plan.out).read(PAGE) or b"")
    for record in done.records:
        if record.state is State.FAILED:
            say(f"summary: series {record.row.series} failed: {record.reason}")
    say(f"summary: {done}")
    # The error becomes an artifact; the log alone may name files of the source.
    replace(done, records=tuple(publishable(plan, done.records))).require_any()
    return {str(state): done.states[state] for state in State}


def _records(folder: Path) -> Sequence[SeriesRecord]:
    """Return the records of the series of a job: those that were published, or those of its failure."""
    if (folder / RECORDS).is_file():
        return [SeriesRecord.from_json(one) for one in json.loads((folder / RECORDS).read_text(encoding="utf-8"))]
    members = [SeriesRecord.from_json(one) for one in read_job(folder)[MEMBERS]]
    note = failure_of(folder)
    if note is None:
        return [replace(one, folder="", reason="its steps did not come to their end") for one in members]
    return [failed(one, note.error, folder / SOURCE) for one in members]


def _times(folder: Path) -> tuple[dict[str, float], float]:
    """Return the seconds of each step of a job, and those from the begin of the first to now."""
    notes: list[Any] = [note for note in read_notes(folder) if note.ended]
    spans = {note.step: (datetime.fromisoformat(note.began), datetime.fromisoformat(note.ended)) for note in notes}
    steps = {step: (end - begin).total_seconds() for step, (begin, end) in spans.items()}
    whole = max(end for _, end in spans.values()) - min(begin for begin, _ in spans.values())
    return steps, whole.total_seconds()


def _absolute(out: str) -> str:
    return out.rstrip("/") if is_s3(out) else str(Path(out).resolve())
