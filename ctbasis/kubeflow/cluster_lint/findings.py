"""What the check of a cluster finds."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Level(Enum):
    """How a finding matters."""

    OK = "ok"
    NOTE = "note"
    UNKNOWN = "unknown"
    MISSING = "missing"


@dataclass(frozen=True)
class Finding:
    """One finding.

    Attributes:
        level: MISSING if a run fails or waits for ever for want of it; UNKNOWN if the user may not read the answer.
        subject: The need, such as `nodes`.
        message: What was found, and what is needed.
        remedy: The command that mends it, or what else helps; empty if nothing is to be done.
    """

    level: Level
    subject: str
    message: str
    remedy: str = ""

    def __str__(self) -> str:
        line = f"{self.level.value:8}{self.subject}: {self.message}"
        return f"{line}\n        {self.remedy}" if self.remedy else line
