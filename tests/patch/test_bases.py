"""Stored patch bases: reading and writing, selection for a series, warnings and errors where they do not fit."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import zarr

from ctbasis.errors import CtbasisError
from ctbasis.matrix.store import MatrixStore
from ctbasis.patch.bases import PatchBases, covariance_distance, group_series, kind_at
from ctbasis.patch.learn import learn_basis
from ctbasis.patch.noise import Noise
from ctbasis.patch.volume import ArrayVolume
from ctbasis.storage.array_store import StoreWriter
from ctbasis.storage.schemas import FACTORS, VERSION
from ctbasis.svd.factors import FactorWriter
from ctbasis.svd.plan import plan_factorization
from tests.store_edits import edit_root
from tests.svd.conftest import write_matrix

if TYPE_CHECKING:
    from pathlib import Path

    from ctbasis.patch.basis import PatchBasis

SHAPE = (5, 5, 3)
SPACING = (1.4, 1.4, 2.5)


def noise(correlation: float = 0.0) -> Noise:
    covariance = np.zeros((9, 9, 5))
    covariance[4, 4, 2] = 1.0
    covariance[4, [3, 5], 2] = covariance[[3, 5], 4, 2] = correlation
    return Noise(np.full((4, 4, 8), 30.0, np.float32), covariance, 1000)


def volume(spacing: tuple[float, float, float] = SPACING, slices: int = 8) -> ArrayVolume:
    return ArrayVolume(np.random.default_rng(0).normal(40, 30, (32, 32, slices)).astype(np.float32), spacing)


@pytest.fixture(scope="module")
def basis() -> PatchBasis:
    return learn_basis(volume(), noise(), shape=SHAPE, classes=2)


@pytest.fixture
def stored(basis: PatchBasis, tmp_path: Path) -> str:
    PatchBases((basis,)).save(f"{tmp_path}/basis")
    return f"{tmp_path}/basis"


def test_bases_are_read_as_they_were_written_together_and_one_alone(stored: str, basis: PatchBasis) -> None:
    for uri in (stored, f"{stored}/", f"{stored}/1"):
        again = PatchBases.open(uri).bases
        assert len(again) == 1
        np.testing.assert_array_equal(again[0].textures[0].vectors, basis.textures[0].vectors)
        assert again[0].provenance == basis.provenance
    assert kind_at(stored) == "patch"


def test_a_stored_basis_records_its_version_its_noise_covariance_and_its_provenance(stored: str) -> None:
    group = zarr.open_group(stored, mode="r")
    assert group.attrs["kind"] == "patch"
    assert group.attrs["version"] == VERSION
    basis = PatchBases.open(stored).bases[0]
    assert basis.covariance.shape == (75, 75)
    assert {"ctbasis", "patches", "seed", "factored_by"} <= set(basis.provenance)


def test_a_missing_incomplete_or_other_basis_is_rejected_with_the_reason(stored: str, tmp_path: Path) -> None:
    with pytest.raises(CtbasisError, match="no basis at"):
        PatchBases.open(f"{tmp_path}/nothing")
    edit_root(stored, version=99)
    with pytest.raises(CtbasisError, match=rf"of version 99\n  expected: version {VERSION}"):
        PatchBases.open(stored)
    edit_root(stored, version=VERSION, complete=False)
    with pytest.raises(CtbasisError, match="not complete"):
        PatchBases.open(stored)
    StoreWriter.create(f"{tmp_path}/global", FACTORS)
    edit_root(f"{tmp_path}/global", complete=True, manifest={name: [0, 0] for name in FACTORS.arrays})
    with pytest.raises(CtbasisError, match=r"the manifest of .* lists"):
        PatchBases.open(f"{tmp_path}/global")
    values = np.random.default_rng(0).standard_normal((30, 4))
    factors = FactorWriter.create(f"{tmp_path}/global", write_matrix(f"{tmp_path}/matrix", values), rank=2)
    U, s, Vt = np.linalg.svd(values, full_matrices=False)
    factors.write_block(slice(0, 30), U[:, :2])
    plan = plan_factorization(engine="numpy", rows=30, cols=4, rank=2, oversample=0, power_iters=0, seed=0)
    factors.finish(s=s[:2], V=Vt[:2].T, plan=plan, matrix=MatrixStore.open(f"{tmp_path}/matrix"))
    with pytest.raises(CtbasisError, match="a basis of slices, from a run in global mode"):
        PatchBases.open(f"{tmp_path}/global")


def test_bases_with_a_missing_member_are_rejected(stored: str) -> None:
    edit_root(stored, count=2)
    with pytest.raises(CtbasisError, match=r"the manifest of .* lists 1"):
        PatchBases.open(stored)


def test_a_basis_fits_a_series_like_its_own_without_notes(basis: PatchBasis) -> None:
    assert PatchBases((basis,)).select(volume(), noise()) == (0, [])


def test_another_spacing_gives_a_note_and_a_very_different_one_is_rejected(basis: PatchBasis) -> None:
    _, notes = PatchBases((basis,)).select(volume((1.4, 1.4, 4.0)), noise())
    assert "spacing" in notes[0]
    with pytest.raises(CtbasisError, match=r"learned at a spacing of 1\.4 x 1\.4 x 2\.5 mm"):
        PatchBases((basis,)).select(volume((0.5, 0.5, 2.5)), noise())


def test_noise_of_another_kernel_gives_a_note_and_the_nearest_basis_is_selected(basis: PatchBasis) -> None:
    soft = noise(0.45)
    _, notes = PatchBases((basis,)).select(volume(), soft)
    assert "another reconstruction kernel" in notes[0]
    near = replace(basis, covariance=soft.patch_covariance(SHAPE))
    assert covariance_distance(near, soft) == 0
    assert PatchBases((basis, near)).select(volume(), soft) == (1, [])


def test_a_volume_smaller_than_a_patch_is_rejected(basis: PatchBasis) -> None:
    with pytest.raises(CtbasisError, match="a patch has 5 x 5 x 3 voxels, the volume only 32 x 32 x 2"):
        PatchBases((basis,)).select(volume(slices=2), noise())


def test_series_are_grouped_by_patch_shape_spacing_and_kernel() -> None:
    volumes = [volume(), volume(), volume((1.4, 1.4, 5.0)), volume(), volume()]
    noises = [noise(), noise(0.02), noise(), noise(0.4), noise()]
    shapes = [SHAPE, SHAPE, SHAPE, SHAPE, (5, 5, 5)]
    assert group_series(volumes, noises, shapes) == [[0, 1], [2], [3], [4]]
