"""The choice of a stored basis: its estimate of the noise is the one that denoising uses, and is made once."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import ctbasis
from ctbasis.node.bases import StoredBases
from ctbasis.patch import estimate, matrix
from ctbasis.patch.bases import PatchBases
from ctbasis.patch.noise_fit import fit_noise
from ctbasis.steps.denoise import denoise_on_basis

if TYPE_CHECKING:
    from pathlib import Path

    from ctbasis.patch.noise import Noise


@pytest.fixture
def estimates(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, int]]:
    """Return the shapes of the volumes whose noise is estimated from now on, one entry for each estimate."""
    made: list[tuple[int, int, int]] = []

    def counted(volume: Any, **arguments: Any) -> Noise:
        made.append(volume.shape)
        return fit_noise(volume, **arguments)

    monkeypatch.setattr(estimate, "fit_noise", counted)
    monkeypatch.setattr(matrix, "fit_noise", counted)
    return made


@pytest.fixture(scope="module")
def volume(scan: tuple[Path, Path]) -> ctbasis.Volume:
    return ctbasis.read(scan[0])


def same(one: ctbasis.Denoised, other: ctbasis.Denoised) -> bool:
    """Return whether two results have the same bits."""
    assert one.sigma is not None
    assert other.sigma is not None
    return (
        np.array_equal(one.hu, other.hu)
        and np.array_equal(one.sigma, other.sigma)
        and one.notes == other.notes
        and one.volume.derivation == other.volume.derivation
    )


def test_the_noise_is_estimated_once_and_the_result_has_the_same_bits(
    scan: tuple[Path, Path], volume: ctbasis.Volume, estimates: list[tuple[int, int, int]], tmp_path: Path
) -> None:
    bases = StoredBases.collect([str(scan[1])], str(tmp_path / "bases"))
    choice = bases.choose(volume)
    assert choice.uri
    fast = denoise_on_basis(volume, choice.uri, estimated=choice.noises)
    assert len(estimates) == 1
    assert same(fast, ctbasis.denoise(volume, basis=choice.uri))
    assert len(estimates) == 2


def test_the_estimate_serves_a_series_that_no_basis_fits(
    scan: tuple[Path, Path], volume: ctbasis.Volume, estimates: list[tuple[int, int, int]], tmp_path: Path
) -> None:
    bases = StoredBases.collect([str(scan[1])], str(tmp_path / "bases"))
    far = replace(volume, spacing=(volume.spacing[0], 3 * volume.spacing[1], 3 * volume.spacing[2]))
    choice = bases.choose(far)
    assert not choice.uri
    assert choice.reason
    learned = denoise_on_basis(far, estimated=choice.noises)
    assert len(estimates) == 1
    assert same(learned, ctbasis.denoise(far))


def test_of_a_series_with_a_gap_the_parts_that_the_choice_did_not_look_at_are_estimated(
    scan: tuple[Path, Path], volume: ctbasis.Volume, estimates: list[tuple[int, int, int]], tmp_path: Path
) -> None:
    bases = StoredBases.collect([str(scan[1])], str(tmp_path / "bases"))
    positions = [0.0, 1.0, 2.0, 3.0, 40.0, 41.0]
    gapped = replace(volume, qc=volume.qc | {"slices": [{"position": volume.spacing[0] * at} for at in positions]})
    choice = bases.choose(gapped)
    assert [noise is not None for noise in choice.noises] == [True, False]
    fast = denoise_on_basis(gapped, choice.uri, estimated=choice.noises)
    assert [slices for _, _, slices in estimates] == [4, 2]
    assert same(fast, ctbasis.denoise(gapped, basis=choice.uri))


def test_an_estimate_that_reaches_further_than_the_patches_of_the_chosen_basis_is_made_again(
    scan: tuple[Path, Path], volume: ctbasis.Volume, estimates: list[tuple[int, int, int]], tmp_path: Path
) -> None:
    # A single slice has larger patches than a volume.
    ctbasis.denoise(volume[:1], keep_basis=tmp_path / "slice")
    bases = StoredBases.collect([str(scan[1]), str(tmp_path / "slice")], str(tmp_path / "bases"))
    assert bases.bases is not None
    assert bases.bases.bases[1].shape > bases.bases.bases[0].shape
    del estimates[:]
    choice = bases.choose(volume)
    assert PatchBases.open(choice.uri).bases[0].shape == bases.bases.bases[0].shape
    fast = denoise_on_basis(volume, choice.uri, estimated=choice.noises)
    assert len(estimates) == 2
    assert same(fast, ctbasis.denoise(volume, basis=choice.uri))
