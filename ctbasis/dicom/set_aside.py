"""Why a file takes no column of A."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SetAside:
    """A file, or a frame of one, that takes no column of A.

    Attributes:
        file: Its path in the folder.
        reason: Why, in words for the user; no file's name, so that reasons can be counted and shown.
        broken: Whether it was meant to be a slice and could not be read: that is worth a warning.
        frame: Which frame, from 1 on; 0 for the file as a whole.
        twin: The slice that was kept in its place, where it holds nothing else.
    """

    file: str
    reason: str
    broken: bool = False
    frame: int = 0
    twin: str = ""


class UnusableFileError(ValueError):
    """What makes a file unfit, while it is being read; the message holds nothing of a patient.

    Args:
        reason: In words for the user.
        broken: As in `SetAside`.
    """

    def __init__(self, reason: str, *, broken: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.broken = broken
