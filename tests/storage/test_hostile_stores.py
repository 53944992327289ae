"""Hundreds of damaged and forged stores: each is refused by name, or read right; none is a traceback or a wrong image.

The counts are printed with `pytest -s`. The variables CTBASIS_STORES, CTBASIS_BASES, CTBASIS_BASES_OF_THE_VERB and
CTBASIS_STORES_SEED set the numbers of stores, of basis stores and of those that `ctbasis denoise` reads too, and the
seed.
"""

from __future__ import annotations

import hashlib
import os
import random
import resource
import shutil
import signal
import sys
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pydicom
import pytest
from click.testing import CliRunner

import ctbasis
from ctbasis.cli import main
from ctbasis.errors import CtbasisError
from ctbasis.matrix.store import MatrixStore
from ctbasis.patch.bases import PatchBases
from ctbasis.patch.result import PatchStore
from ctbasis.svd.factors import FactorStore
from tests.storage.hostile_stores import DAMAGES, FORGERIES, of_another_run
from tests.storage.test_damaged_stores import WRITERS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.storage.hostile_stores import Change

CASES = int(os.environ.get("CTBASIS_STORES", "500"))
SEED = int(os.environ.get("CTBASIS_STORES_SEED", "0"))

BASIS_CASES = int(os.environ.get("CTBASIS_BASES", "30"))
VERB_CASES = int(os.environ.get("CTBASIS_BASES_OF_THE_VERB", "2"))

SECONDS = 300
"""Wall-clock time in seconds after which a reader counts as hanging; it takes some milliseconds, a whole run of the
pipeline some seconds on an idle machine."""

MEMORY_KIB = 1 << 20
"""Memory in KiB that all cases together may take; stores that claim more must not get it."""


def values(kind: str, uri: str) -> Iterator[bytes]:
    """Read everything that images are made of, by the readers that the steps use."""
    if kind.startswith("patch"):
        for basis in PatchBases.open(uri).bases:
            yield repr((basis.shape, basis.spacing)).encode()
            yield from (array.tobytes() for array in basis.arrays())
        return
    opened: Any = {"matrix": MatrixStore, "factors": FactorStore, "denoised": PatchStore}[kind]
    store = opened.open(uri)
    # A forged spacing that is a spacing cannot be told from a true one; one that is none is refused.
    yield repr((store.image, [(entry.first, entry.count) for entry in store.series])).encode()
    yield from (store.read_block(index).tobytes() for index in range(store.block_count))
    yield store.read_aside(slice(None)).tobytes()
    yield from (store.header(column) for column in range(store.cols))
    if kind == "factors":
        yield from (store.s.tobytes(), store.V.tobytes(), store.read_basis_image(0).tobytes())
    if kind == "denoised":
        for number in range(len(store.parts)):
            noise = store.noise(number)
            for array in (noise.sigma, noise.covariance, noise.texture_covariances, noise.texture_map):
                yield array.tobytes()


def digest(kind: str, uri: str) -> str:
    """Return a digest of everything that is read."""
    whole = hashlib.sha256()
    for part in values(kind, uri):
        whole.update(part)
    return whole.hexdigest()


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a store of each kind, of two runs: `run/kind` and `other/kind`."""
    place = tmp_path_factory.mktemp("stores")
    for seed, run in enumerate(("run", "other")):
        for kind, write in WRITERS.items():
            write(str(place / run / kind), np.random.default_rng(seed))
    return place


@pytest.fixture
def no_hang() -> Iterator[None]:
    """Fail a test whose reader hangs."""

    def hangs(*_: object) -> None:
        raise AssertionError("the reader hangs")

    before = signal.signal(signal.SIGALRM, hangs)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def judged(read: Callable[[], Any], store: Path, right: object) -> str:
    """Return how a store was read, in one word."""
    signal.alarm(SECONDS)
    try:
        found = read()
    except CtbasisError as error:
        # The user is told which store it is, and what to do.
        return "refused" if str(store) in str(error) and error.remedy else f"refused without a name: {error}"
    except Exception as error:  # noqa: BLE001 - any other exception is the fault that is looked for
        return f"a traceback: {error!r}"
    finally:
        signal.alarm(0)
    return "right" if found == right else "WRONG"


@pytest.mark.usefixtures("no_hang")
def test_damaged_and_forged_stores_are_refused_by_name_or_read_right(originals: Path, tmp_path: Path) -> None:
    expected = {kind: digest(kind, str(originals / "run" / kind)) for kind in WRITERS}
    counts, faults, changed = Counter[str](), [], Counter[str]()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(CASES):
        rng = random.Random(f"{SEED} {number}")
        kind = rng.choice(sorted(WRITERS))
        store = tmp_path / f"{kind}-{number}"
        shutil.copytree(originals / "run" / kind, store)
        change: Change | None = rng.choice((*DAMAGES, None, *FORGERIES))
        told = of_another_run(store, originals / "other" / kind, rng) if change is None else change(store, rng)
        name = "of_another_run" if change is None else change.__name__
        outcome = judged(partial(digest, kind, str(store)), store, expected[kind])
        counts[outcome.partition(":")[0]] += 1
        changed[f"{name}: {outcome.partition(':')[0]}"] += 1
        if outcome not in {"refused", "right"}:
            faults.append(f"case {number}, {kind}, {name} ({told}): {outcome}")
        shutil.rmtree(store)
    taken = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    sys.stdout.write(f"\n{CASES} stores: {dict(counts)}; {taken / 1024:.0f} MiB taken\n")
    sys.stdout.write("\n".join(f"  {count:4} {name}" for name, count in sorted(changed.items())) + "\n")
    assert not faults, "\n".join(faults)
    assert counts["refused"] > 0.9 * CASES
    assert taken < MEMORY_KIB


@pytest.fixture(scope="module")
def noisy() -> ctbasis.Volume:
    """Return a volume with so much tissue that patch mode finds its noise."""
    return ctbasis.simulate_dose(ctbasis.chest_phantom(slices=6, rows=96, columns=96), photons=4e3)


@pytest.fixture(scope="module")
def bases(noisy: ctbasis.Volume, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the basis of a volume in each mode, `patch` and `global`."""
    place = tmp_path_factory.mktemp("bases")
    for mode, options in MODES.items():
        ctbasis.denoise(noisy, keep_basis=place / mode, **options)
    return place


MODES: dict[str, dict[str, Any]] = {"patch": {"mode": "patch"}, "global": {"mode": "global", "rank": 2}}


def written(out: Path, *arguments: str) -> list[bytes]:
    """Return the images that a verb of `ctbasis` writes below `out`.

    Raises:
        CtbasisError: The verb refuses the basis; nothing is written then.
    """
    done = CliRunner().invoke(main, [*arguments, "--out", str(out)])
    if done.exit_code == 2:
        assert not out.exists()
        raise CtbasisError(done.output, remedy=done.output.partition("remedy:")[2])
    if done.exception is not None:
        raise done.exception
    return [pydicom.dcmread(path).PixelData for path in sorted(out.rglob("*.dcm"))]


def reconstructed(store: Path, out: Path) -> list[bytes]:
    """Return the images that `ctbasis reconstruct` writes."""
    return written(out, "reconstruct", str(store), "--rank", "2")


def denoised(store: Path, mode: str, series: Path, out: Path) -> list[bytes]:
    """Return the images that `ctbasis denoise --basis` writes; it runs the compiled pipeline."""
    ranks = ("--rank", "2", "--ranks", "2") if mode == "global" else ()
    return written(out, "denoise", str(series), "--basis", str(store), "--engine", "numpy", "--seed", "1", *ranks)


@pytest.mark.usefixtures("no_hang")
def test_hostile_basis_stores_are_refused_by_denoise_and_reconstruct_or_give_the_right_image(
    bases: Path, noisy: ctbasis.Volume, tmp_path: Path
) -> None:
    series = tmp_path / "series"
    ctbasis.write_series(noisy, series)
    right = {
        mode: [ctbasis.denoise(noisy, basis=bases / mode, **options).volume.hu.tobytes()]
        for mode, options in MODES.items()
    } | {"reconstruct": reconstructed(bases / "global", tmp_path / "right")}
    by_verb = {mode: denoised(bases / mode, mode, series, tmp_path / f"right-{mode}") for mode in MODES}
    assert by_verb["patch"] != by_verb["global"]
    right |= {f"denoise --basis, {mode}": images for mode, images in by_verb.items()}
    assert right["patch"] != right["global"] != [noisy.hu.tobytes()] != right["patch"]
    counts, faults = Counter[str](), []
    for number in range(BASIS_CASES):
        rng = random.Random(f"{SEED} basis {number}")
        mode = ("patch", "global")[number % 2]
        store = tmp_path / f"{mode}-{number}"
        shutil.copytree(bases / mode, store)
        change = rng.choice((*FORGERIES, *DAMAGES))
        told = f"case {number}, {mode}, {change.__name__} ({change(store, rng)})"

        def applied(mode: str = mode, store: Path = store) -> list[bytes]:
            return [ctbasis.denoise(noisy, basis=store, **MODES[mode]).volume.hu.tobytes()]

        ways: dict[str, Callable[[], list[bytes]]] = {mode: applied}
        if number < VERB_CASES:
            out = tmp_path / f"verb-{number}"
            ways[f"denoise --basis, {mode}"] = partial(denoised, store, mode, series, out)
        if mode == "global":
            ways["reconstruct"] = partial(reconstructed, store, tmp_path / f"out-{number}")
        for way, images in ways.items():
            outcome = judged(images, store, right[way])
            counts[f"{way}: {outcome.partition(':')[0]}"] += 1
            if outcome not in {"refused", "right"}:
                faults.append(f"{told}, {way}: {outcome}")
        shutil.rmtree(store)
    sys.stdout.write(f"\n{BASIS_CASES} basis stores: {dict(counts)}\n")
    assert not faults, "\n".join(faults)


def test_the_cases_are_reproducible_and_of_every_kind(originals: Path, tmp_path: Path) -> None:
    for change in (*DAMAGES, *FORGERIES):
        told = []
        for copy in ("one", "two"):
            shutil.copytree(originals / "run" / "denoised", tmp_path / copy)
            told.append(change(tmp_path / copy, random.Random(7)))
            shutil.rmtree(tmp_path / copy)
        assert told[0] == told[1]
