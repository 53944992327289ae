"""One patch basis for a whole cohort, learned on a sample of its series."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from ctbasis.cohort.plan import jobs_of
from ctbasis.cohort.preparation import Assignment
from ctbasis.cohort.record import State
from ctbasis.cohort.state import BASIS
from ctbasis.errors import CtbasisError
from ctbasis.patch.bases import PatchBases
from ctbasis.printable import say
from ctbasis.storage import stores

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ctbasis.cohort.dispatch import Dispatch
    from ctbasis.cohort.plan import PlannedSeries
    from ctbasis.cohort.preparation import ObjectList


def shared_basis(
    learning: Dispatch,
    series: Sequence[PlannedSeries],
    objects: Mapping[str, ObjectList],
    *,
    relearn: bool,
) -> str:
    """Return the URI of the basis of the cohort; learn it if the output has none.

    The sample is drawn by a hash of SeriesInstanceUID, so that it is spread over the source and the same in every run.
    Series of equal geometry are learned on together; the basis of each geometry holds one part for each kernel, and
    `ctbasis.patch.bases` chooses for each series the part that fits its noise.

    Args:
        learning: The worker processes, with the request `learn`.
        series: The series of the cohort.
        objects: The list of the objects of each series, by its folder.
        relearn: Whether a basis in the output is of other settings.

    Raises:
        CtbasisError: No series of the sample can be learned on, or the basis cannot be written.
    """
    plan = learning.plan
    uri = f"{plan.out}/{BASIS}"
    if not relearn:
        try:
            PatchBases.open(uri)
        except CtbasisError:
            pass
        else:
            say(f"cohort: the basis of an earlier run into this output is applied: {uri}")
            return uri
    sample = sorted(series, key=lambda one: hashlib.sha256(one.row.series.encode()).digest())[: plan.basis_from]
    say(f"cohort: one basis is learned on {len(sample)} of {len(series)} series")
    jobs = jobs_of(sample, join=True)
    assignments = (
        Assignment(job, tuple(objects[one.folder] for one in job.series), (None,) * len(job.series)) for job in jobs
    )
    learned = 0
    for records in learning.run(assignments):
        bad = [record for record in records if record.state is State.FAILED]
        learned += len(records) - len(bad)
        for record in bad:
            say(f"cohort: series {record.row.series} is not in the sample: {record.reason}")
    folders = sorted(learning.folder.glob("bases-*"))
    if not folders:
        raise CtbasisError(
            f"none of the {len(sample)} series of the sample could be learned on",
            expected="at least one",
            remedy="raise --basis-from, or leave it out",
        )
    bases = tuple(basis for folder in folders for basis in PatchBases.open(str(folder)).bases)
    stores.delete(uri)
    PatchBases(bases).save(uri)
    say(f"cohort: the basis of {learned} series has {len(bases)} parts, one for each geometry and kernel: {uri}")
    return uri
