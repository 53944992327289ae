"""Reading and writing DICOM files that deviate from the standard, without warnings from pydicom."""

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
    """Turn off pydicom's validation, warnings and log, because its messages quote values, which may identify a patient.

    The settings apply to the whole process, including its threads. Enter the context before starting threads.
    """
    before = LOGGER.disabled
    LOGGER.disabled = True
    try:
        with warnings.catch_warnings(), config.disable_value_validation():
            warnings.simplefilter("ignore")
            yield
    finally:
        LOGGER.disabled = before
