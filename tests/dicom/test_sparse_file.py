"""Headers are read from ranges of a file: with the same results as from the whole file, and without the pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, BinaryIO, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.encaps import encapsulate
from pydicom.uid import RLELossless

from ctbasis.dicom.header import HEADER_READ
from ctbasis.dicom.instance import read_slices, read_stream
from ctbasis.dicom.sparse_file import MissingBytesError, SparseFile
from ctbasis.simulate.awkward import ct_image, forms, to_bytes

if TYPE_CHECKING:
    from pathlib import Path

FORMS = forms()


def read_by_ranges(content: bytes, name: str) -> tuple[list[Any], list[tuple[int, int]]]:
    """Return the results of reading a file by ranges, and the ranges that were needed."""
    ranges = [(0, content[: HEADER_READ[0]])]
    wanted = [(0, HEADER_READ[0])]
    while True:
        try:
            return read_stream(cast("BinaryIO", SparseFile(len(content), ranges)), name), wanted
        except MissingBytesError as missing:
            start, stop = missing.start, missing.stop
        assert start < stop <= len(content)
        ranges.append((start, content[start:stop]))
        wanted.append((start, stop))


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_file_gives_the_same_slices_by_ranges(form: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(FORMS[form])
    results, _ = read_by_ranges(FORMS[form], "file")
    assert results == read_slices(tmp_path, "file")


@settings(max_examples=60)
@given(form=st.sampled_from(sorted(FORMS)), cut=st.floats(0, 1))
def test_a_truncated_file_is_set_aside_for_the_same_reason(form: str, cut: float, tmp_path_factory: Any) -> None:
    folder = tmp_path_factory.mktemp("cut")
    content = FORMS[form][: int(cut * len(FORMS[form]))]
    (folder / "file").write_bytes(content)
    assert read_by_ranges(content, "file")[0] == read_slices(folder, "file")


def test_the_pixels_of_a_long_image_are_not_read() -> None:
    large = ct_image(np.zeros((512, 512), np.int16))
    content = to_bytes(large)
    assert len(content) > 500_000
    _, wanted = read_by_ranges(content, "file")
    assert wanted == [(0, HEADER_READ[0])]


def test_a_long_header_takes_at_most_four_times_its_length() -> None:
    ds = ct_image(np.zeros((1024, 1024), np.int16))
    ds.add_new(0x00091001, "OB", bytes(100_000))
    results, wanted = read_by_ranges(to_bytes(ds), "file")
    assert not hasattr(results[0], "reason")
    assert sum(stop - start for start, stop in wanted) <= HEADER_READ[1]


def test_of_compressed_pixels_only_the_headers_of_items_are_read() -> None:
    ds = ct_image(np.zeros((512, 512), np.int16))
    ds.file_meta.TransferSyntaxUID = RLELossless
    ds.PixelData = encapsulate([bytes(200_000)])
    ds["PixelData"].VR = "OB"
    ds["PixelData"].is_undefined_length = True
    _, wanted = read_by_ranges(to_bytes(ds), "file")
    assert [stop - start for start, stop in wanted[1:]] == [8]


def test_a_file_of_unknown_size_is_taken_as_complete() -> None:
    content = to_bytes(ct_image(np.zeros((512, 512), np.int16)))
    (result,) = read_stream(cast("BinaryIO", SparseFile(None, [(0, content[: HEADER_READ[0]])])), "file")
    assert not hasattr(result, "reason")


def test_a_read_across_ranges_puts_them_together_and_one_beyond_them_says_what_is_missing() -> None:
    file = SparseFile(10, [(0, b"abcd"), (4, b"ef")])
    assert file.read(6) == b"abcdef"
    with pytest.raises(MissingBytesError) as missing:
        file.read(100)
    assert (missing.value.start, missing.value.stop) == (6, 10)
    file.seek(0, 2)
    assert file.read(5) == b""
