"""Read and write what DICOM files in the world say, without pydicom's opinion of it."""

from __future__ import annotations

import logging
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pydicom import config

if TYPE_CHECKING:
    from collections.abc import Iterator

LOGGER = logging.getLogger("pydicom")


@contextmanager
def tolerant() -> Iterator[None]:
    """Keep pydicom from judging values: its warnings and its log quote them, and they may be a patient's.

    Of the whole process, threads too, so it belongs around them and not inside.
    """
    before = LOGGER.disabled
    LOGGER.disabled = True
    try:
        with warnings.catch_warnings(), config.disable_value_validation():
            warnings.simplefilter("ignore")
            yield
    finally:
        LOGGER.disabled = before
