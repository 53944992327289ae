"""Files and frames that are not part of the matrix A, with the reason."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SetAside:
    """A file, or a frame of a file, that does not become a column of A.

    Attributes:
        file: Path of the file, relative to the folder.
        reason: The reason, as text for the user. It does not name the file, so that equal reasons can be counted.
        broken: Whether the file should be a slice but could not be read, which is worth a warning.
        frame: Number of the frame, from 1; 0 for the whole file.
        twin: Name of the slice that was kept instead, for a duplicate.
    """

    file: str
    reason: str
    broken: bool = False
    frame: int = 0
    twin: str = ""


class UnusableFileError(ValueError):
    """Raised while a file is read, if the file cannot be used. The message contains no patient data.

    Args:
        reason: The reason, as text for the user.
        broken: As in `SetAside`.
    """

    def __init__(self, reason: str, *, broken: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.broken = broken
