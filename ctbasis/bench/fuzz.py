"""Fuzz test of the DICOM reader with damaged files: each is read correctly, refused, or ends one worker process.

`python -m ctbasis.bench.fuzz --cases 1000000 --seed 7` runs as many cases as wanted. The file of a failed case is
written to `--keep`, and `--only` with its number runs it again.
"""

from __future__ import annotations

import argparse
import io
import random
import resource
import sys
import tempfile
import time
import warnings
from collections import Counter
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pydicom
from pydicom.data import get_testdata_file

from ctbasis.dicom.hounsfield import Pixels, to_hounsfield
from ctbasis.dicom.instance import read_slices, read_values
from ctbasis.dicom.resource_limits import limited
from ctbasis.dicom.series import arrange
from ctbasis.dicom.set_aside import SetAside
from ctbasis.dicom.workers import Workers
from ctbasis.printable import show
from ctbasis.progress import progress
from ctbasis.simulate.awkward import PATIENT, forms
from ctbasis.simulate.mutations import elements, mutated

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ctbasis.dicom.instance import Slice
    from ctbasis.simulate.mutations import Element

PACKAGE_FILES = ("CT_small.dcm", "693_J2KI.dcm", "UN_sequence.dcm", "DICOMDIR", "nested_priv_SQ.dcm")
"""Test files of pydicom that are used in addition to those of `forms`."""

SECONDS = 10.0
"""Processor time in seconds after which the process of a case is ended; no file of the corpus needs 0.1 s."""


@dataclass(frozen=True)
class Case:
    """Outcome of one damaged file.

    Attributes:
        number: Number of the case; number and seed determine the file.
        outcome: `read`, `set aside`, `refused` or `isolated`; `wrong` if the reader failed.
        reason: Reason of a refusal, or description of the failure.
        peak_kib: Peak memory of the process of the case so far, minus its memory before the first case, KiB.
    """

    number: int
    outcome: str
    reason: str = ""
    peak_kib: int = 0


@dataclass
class Summary:
    """Outcomes of all cases.

    Attributes:
        outcomes: Number of cases by outcome.
        reasons: Number of cases by reason.
        wrong: Cases in which the reader failed.
        peak_mib: Largest peak memory of a process, MiB.
        seconds: Wall-clock time.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    wrong: list[Case] = field(default_factory=list)
    peak_mib: float = 0.0
    seconds: float = 0.0

    def add(self, case: Case) -> None:
        """Count a case."""
        self.outcomes[case.outcome] += 1
        self.reasons[case.reason] += bool(case.reason)
        self.peak_mib = max(self.peak_mib, case.peak_kib / 1024)
        if case.outcome == "wrong":
            self.wrong.append(case)

    def __str__(self) -> str:
        counts = ", ".join(f"{count} {outcome}" for outcome, count in self.outcomes.most_common())
        memory = f"at most {self.peak_mib:.0f} MiB taken by a process"
        lines = [f"{self.outcomes.total()} cases in {self.seconds:.0f} s: {counts}; {memory}"]
        lines += [f"  case {case.number}: {case.reason}" for case in self.wrong]
        return "\n".join(lines)


def fuzz(cases: Sequence[int], *, seed: int, workers: int = 2) -> Summary:
    """Run cases and return their outcomes.

    Args:
        cases: Numbers of the cases.
        seed: Seed of all cases.
        workers: Number of processes.
    """
    corpus()
    summary = Summary()
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch, Workers(workers, max_crashes=len(cases)) as pool:
        done = pool.map(
            partial(run_case, Path(scratch), seed), cases, lambda number, why: Case(number, "isolated", why)
        )
        for case in progress(done, "fuzz", total=len(cases), unit="case"):
            summary.add(case)
    summary.seconds = time.monotonic() - start
    return summary


@cache
def corpus() -> list[tuple[bytes, list[Element]]]:
    """Return undamaged files with their elements."""
    paths = [get_testdata_file(name) for name in PACKAGE_FILES]
    whole = [*forms().values(), *(Path(path).read_bytes() for path in paths if isinstance(path, str))]
    return [(content, elements(content)) for content in whole]


def damaged_file(seed: int, number: int) -> bytes:
    """Return the damaged file of a case."""
    rng = random.Random(f"{seed} {number}")  # noqa: S311 - reproducible, not for secrecy
    return mutated(*rng.choice(corpus()), rng)


def run_case(scratch: Path, seed: int, number: int) -> Case:
    """Read one damaged file and judge the outcome."""
    before = _initial_peak_kib()
    content = damaged_file(seed, number)
    name = f"{number}.dcm"
    (scratch / name).write_bytes(content)
    try:
        with limited(seconds=SECONDS):
            outcome, reason = _judge(scratch, name, content)
    except Exception as error:  # noqa: BLE001 - every exception of the reader is a failure
        outcome, reason = "wrong", f"{type(error).__name__}: {error}"
    finally:
        (scratch / name).unlink()
    return Case(number, outcome, reason, _peak_kib() - before)


@cache
def _initial_peak_kib() -> int:
    """Return the peak memory of this worker before its first case; a forked process starts with that of its parent."""
    return _peak_kib()


def _peak_kib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _judge(folder: Path, name: str, content: bytes) -> tuple[str, str]:
    entries = read_slices(folder, name)
    aside = [entry for entry in entries if isinstance(entry, SetAside)]
    slices = [entry for entry in entries if not isinstance(entry, SetAside)]
    faults = ["the reader returned nothing for the file"] if not entries else []
    outcome, reason = "read", ""
    if not slices and aside:
        outcome, reason = ("refused" if aside[0].broken else "set aside"), aside[0].reason
    reference = _reference(content) if slices else None
    faults += [_fault_of_header(entry, header, reference) for entry, header in slices]
    try:
        faults += [_fault_of_values(folder, entry, reference) for entry, _ in slices]
    except ValueError as error:
        outcome, reason = "refused", str(error)
    if PATIENT in reason + str(aside):
        faults.append("a reason names the patient")
    fault = next(filter(None, faults), "")
    return ("wrong", fault) if fault else (outcome, reason)


def _reference(content: bytes) -> pydicom.Dataset | None:
    """Return the data set that pydicom reads from the whole file, None if it reads none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return pydicom.dcmread(io.BytesIO(content), force=True)
    except Exception:  # noqa: BLE001 - pydicom may raise anything; then there is no reference
        return None


def _fault_of_header(entry: Slice, header: bytes, reference: pydicom.Dataset | None) -> str:
    """Compare a slice with the header that later steps read, and with the data set that pydicom reads from the file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kept = pydicom.dcmread(io.BytesIO(header))
    if Pixels.of(kept) != entry.pixels and entry.pixels.lut is None:
        return "the kept header describes other pixels"
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient"):
        value = getattr(entry, keyword)
        if tuple(map(float, kept[keyword].value)) != value:
            return f"{keyword} of the kept header differs"
        theirs = None if reference is None or entry.frame else _numbers(reference.get(keyword))
        if theirs is not None and theirs != value:
            return f"{keyword} differs from pydicom's"
    (series,) = arrange([entry])
    if not np.isfinite(series.positions).all():
        return "a position is not finite"
    return ""


def _numbers(value: Any) -> tuple[float, ...] | None:
    """Return the numbers of a decimal string; None if there is no value. pydicom leaves decimal commas as text."""
    return None if value is None else tuple(float(str(number).replace(",", ".")) for number in value)


def _fault_of_values(folder: Path, entry: Slice, reference: pydicom.Dataset | None) -> str:
    """Compare uncompressed stored values with those that pydicom reads, if it reads any."""
    values = read_values(folder, entry)
    if values.shape != (entry.Rows, entry.Columns):
        return f"values of shape {values.shape}"
    hu = np.empty(values.shape, np.float32)
    to_hounsfield(values, entry.pixels, hu)
    if not np.isfinite(hu).all():
        return "HU are not finite"
    if reference is not None and not entry.stored.syntax:
        try:
            theirs: Any = reference.pixel_array
        except Exception:  # noqa: BLE001 - as above
            return ""
        theirs = theirs[entry.frame - 1] if theirs.ndim > values.ndim else theirs
        # pydicom has already removed the bits beyond BitsStored, which ctbasis does later.
        used = (1 << entry.pixels.BitsStored) - 1
        if theirs.shape == values.shape and ((theirs.astype(np.int64) ^ values.astype(np.int64)) & used).any():
            return "values differ from pydicom's"
    return ""


def main() -> int:
    """Run from the command line, and return the exit code: 1 if the reader failed in a case, else 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=20_000, help="number of cases")
    parser.add_argument("--seed", type=int, default=0, help="seed of the cases")
    parser.add_argument("--workers", type=int, default=2, help="number of processes")
    parser.add_argument("--only", type=int, help="run only the case with this number")
    parser.add_argument("--keep", type=Path, help="folder for the files of failed cases")
    parser.add_argument("--reasons", action="store_true", help="print how often each reason was given")
    options = parser.parse_args()
    cases = range(options.cases) if options.only is None else [options.only]
    summary = fuzz(cases, seed=options.seed, workers=options.workers)
    show(*str(summary).split("\n"))
    if options.reasons:
        show(*(f"{count:8} {reason}" for reason, count in summary.reasons.most_common()))
    if options.keep:
        options.keep.mkdir(parents=True, exist_ok=True)
        for case in summary.wrong:
            (options.keep / f"{options.seed}-{case.number}.dcm").write_bytes(damaged_file(options.seed, case.number))
    return 1 if summary.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
