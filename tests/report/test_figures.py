"""The figures of global mode: the data, titles and scales of their axes."""

from __future__ import annotations

import subprocess
import sys
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from ctbasis.matrix.slice_store import Series
from ctbasis.report.figures import (
    WINDOWS,
    ShownRank,
    basis_images,
    figure1,
    png,
    scree,
    weights_along_slices,
)
from ctbasis.svd.plan import plan_factorization

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

PLAN = plan_factorization(engine="numpy", rows=10_000, cols=133, rank=120, oversample=15, power_iters=2, seed=None)


def decoded(figure: Figure) -> Image.Image:
    image = Image.open(BytesIO(png(figure)))
    image.load()
    return image


@pytest.mark.parametrize(
    ("rank", "run", "identity", "label"),
    [
        (ShownRank(50, 120, 133), 50, False, "k=50"),
        (ShownRank(132, 120, 133), 120, False, "k=120 (132 requested)"),
        (ShownRank(133, 120, 133), 133, True, "k=133, full rank"),
        (ShownRank(244, 120, 133), 133, True, "k=133, full rank (244 requested)"),
        (ShownRank(300, 133, 133), 133, True, "k=133, full rank (300 requested)"),
    ],
)
def test_the_label_of_a_rank_names_the_rank_that_is_used(rank: ShownRank, run: int, identity: bool, label: str) -> None:
    assert (rank.run, rank.identity, rank.label) == (run, identity, label)


def test_a_title_shows_oversample_and_power_iterations_as_used() -> None:
    assert PLAN.oversample == 13
    assert ShownRank(120, 120, 133).title(PLAN) == "k=120\np=13, q=2"
    assert ShownRank(50, 120, 133).title(PLAN) == "k=50\np=13, q=2, factored at k=120"


@pytest.fixture
def original() -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(-300, 400, (32, 64)).astype(np.float32)


@pytest.fixture
def drawn(original: NDArray[np.float32]) -> Figure:
    shown = [(ShownRank(50, 120, 133), original + 25), (ShownRank(244, 120, 133), original)]
    return figure1(original, shown, plan=PLAN, pixel_spacing=(1.0, 0.5), caption="slice 3 of 9")


def panels(figure: Figure) -> NDArray[Any]:
    """Return the axes of Figure 1 without colour bars, (4, columns)."""
    axes = [entry for entry in figure.axes if entry.get_label() != "<colorbar>"]
    return np.array(axes, object).reshape(4, -1)


def pixels(axes: Axes) -> NDArray[Any]:
    return np.asarray(axes.images[0].get_array())


def test_figure_1_shows_the_original_and_every_rank_in_both_windows(
    drawn: Figure, original: NDArray[np.float32]
) -> None:
    for row, window in enumerate(WINDOWS):
        for column, image in enumerate([original, original + 25, original]):
            axes = panels(drawn)[row, column]
            np.testing.assert_array_equal(pixels(axes), image)
            assert axes.images[0].get_clim() == window.limits
        assert window.name in panels(drawn)[row, 0].get_ylabel()
    assert (WINDOWS[0].limits, WINDOWS[1].limits) == ((-1350, 150), (-160, 240))


def test_figure_1_labels_each_rank_as_used(drawn: Figure) -> None:
    assert [axes.get_title() for axes in panels(drawn)[0]] == [
        "original\n",
        "k=50\np=13, q=2, factored at k=120",
        "k=133, full rank (244 requested)\nidentical to the original",
    ]


def test_the_removed_component_is_original_minus_approximation_and_zero_at_full_rank(drawn: Figure) -> None:
    removed = panels(drawn)[2]
    np.testing.assert_allclose(pixels(removed[1]), -25, atol=1e-3)
    assert not pixels(removed[2]).any()
    for axes in removed[1:]:
        least, most = axes.images[0].get_clim()
        assert least == -most
    assert [text.get_text() for text in removed[2].texts] == ["nothing removed"]


def test_pixels_are_drawn_with_their_true_aspect_ratio(drawn: Figure) -> None:
    assert {axes.get_aspect() for axes in panels(drawn).flat if axes.images} == {2.0}


def test_every_image_has_a_colour_bar_in_hu(drawn: Figure) -> None:
    bars = [axes for axes in drawn.axes if axes.get_label() == "<colorbar>"]
    assert len(bars) == 2 + 2 * 2
    assert all("HU" in bar.get_ylabel() + bar.get_xlabel() for bar in bars)


def test_figure_1_is_a_valid_png_with_hundreds_of_pixels_per_panel(drawn: Figure) -> None:
    image = decoded(drawn)
    assert image.format == "PNG"
    assert image.width > 3 * 400


@pytest.mark.parametrize("count", [1, 7])
def test_figure_1_can_show_any_number_of_ranks(original: NDArray[np.float32], count: int) -> None:
    shown = [(ShownRank(k, 120, 133), original) for k in range(1, count + 1)]
    figure = figure1(original, shown, plan=PLAN, pixel_spacing=(1.0, 1.0), caption="")
    assert panels(figure).shape == (4, count + 1)
    decoded(figure)


def test_the_scree_plot_shows_singular_values_cumulative_energy_and_ranks() -> None:
    s = np.array([100.0, 10.0, 1.0, 0.0])
    figure = scree(s, energy=20_000.0, shown=[ShownRank(2, 4, 9), ShownRank(9, 4, 9)])
    left, right = figure.axes
    np.testing.assert_array_equal(np.asarray(left.lines[0].get_ydata())[:3], s[:3])
    np.testing.assert_allclose(np.asarray(right.lines[0].get_ydata()), np.cumsum(s**2) / 20_000)
    # Rank 9 is full rank and above the number of stored singular values.
    assert [line.get_label() for line in left.lines[1:]] == ["k=2"]
    decoded(figure)


@pytest.mark.parametrize("count", [1, 3, 8])
def test_each_basis_image_is_drawn_symmetrically_about_zero_with_its_singular_value(count: int) -> None:
    basis = np.random.default_rng(0).normal(size=(count, 20, 24)).astype(np.float32)
    figure = basis_images(basis, np.arange(count, 0, -1.0) * 1e3, pixel_spacing=(1, 1))
    shown = [axes for axes in figure.axes if axes.images]
    assert len(shown) == count
    for axes, image in zip(shown, basis, strict=True):
        np.testing.assert_array_equal(pixels(axes), image)
        assert sum(axes.images[0].get_clim()) == 0
    assert f"{count * 1000:.3g}" in shown[0].get_title()
    decoded(figure)


@pytest.mark.parametrize("counts", [(1,), (5,), (5, 3), (2,) * 9])
def test_weights_are_drawn_series_by_series_in_hu(counts: tuple[int, ...]) -> None:
    weights = np.random.default_rng(0).normal(size=(sum(counts), 3))
    firsts = np.cumsum([0, *counts])
    series = [Series("1.2", int(first), count) for first, count in zip(firsts, counts, strict=False)]
    figure = weights_along_slices(weights, series, rows=400)
    drawn = [axes for axes in figure.axes if axes.get_title()]
    assert len(drawn) == min(6, len(counts))
    for axes, entry in zip(drawn, series, strict=False):
        for index in range(3):
            np.testing.assert_allclose(np.asarray(axes.lines[index].get_ydata()), weights[entry.columns, index] / 20)
    decoded(figure)


def test_figures_do_not_import_pyplot_with_its_global_state() -> None:
    code = "import sys, ctbasis.report.figures; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
