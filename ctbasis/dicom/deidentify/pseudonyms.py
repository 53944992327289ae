"""Names that take the place of a patient's: the same for the same original and salt, and no way back without it."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import re
import secrets
import uuid
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Self

from ctbasis.errors import CtbasisError

SALT = "CTBASIS_DEIDENTIFY_SALT"
"""The environment variable with the secret; the same one gives the same pseudonyms in another run."""

SHORTEST_SALT = 16
"""Characters. UIDs and patient IDs can be guessed, so whoever guesses the salt as well has the patient."""

FARTHEST_DAYS = 3650

STANDARD_ROOT = "1.2.840.10008."
"""UIDs that the standard itself gives out: classes and syntaxes, of no patient."""

DATE = re.compile(r"(\d{8})(.*)", re.DOTALL)


@dataclass(frozen=True)
class Pseudonyms:
    """Pseudonyms under one salt.

    Attributes:
        given: Whether the user gave the salt, so that other runs can have the same pseudonyms.
    """

    _salt: bytes = field(repr=False)
    given: bool = True

    @classmethod
    def of_environment(cls) -> Self:
        """Take the salt of `SALT`, or draw one that this process alone knows and nobody writes down.

        Raises:
            CtbasisError: The salt is too short to be one.
        """
        salt = os.environ.get(SALT, "")
        if not salt:
            return cls(secrets.token_bytes(32), given=False)
        if len(salt) < SHORTEST_SALT:
            raise CtbasisError(
                f"{SALT} has {len(salt)} characters",
                expected=f"at least {SHORTEST_SALT}, at random, or no such variable for a salt of this run alone",
                remedy="python -c 'import secrets; print(secrets.token_hex())'",
            )
        return cls(salt.encode())

    def uid(self, original: str) -> str:
        """Return the UID in the place of `original`: a UUID under 2.25 (PS3.5 B.2); the standard's own stay."""
        if not original or original.startswith(STANDARD_ROOT):
            return original
        return f"2.25.{uuid.UUID(bytes=self._digest('uid', original)[:16], version=4).int}"

    def patient(self, original: str) -> str:
        """Return the PatientID in the place of `original`, 16 letters and digits."""
        return f"CTB-{base64.b32encode(self._digest('patient', original))[:12].decode()}"

    def token(self, original: str) -> str:
        """Return a word that is the same for the same `original`, and says nothing else."""
        return f"#{self._digest('token', original)[:4].hex()}"

    def shifted(self, date: str, patient: str) -> str | None:
        """Return a DA or DT value moved back by the patient's days, 1 to `FARTHEST_DAYS`; None where it is no date."""
        found = DATE.fullmatch(date.strip())
        days = 1 + int.from_bytes(self._digest("days", patient)[:8], "big") % FARTHEST_DAYS
        try:
            moved = datetime.strptime(found[1] if found else "", "%Y%m%d") - timedelta(days)  # noqa: DTZ007 - a date
        except (ValueError, OverflowError):
            return None
        # %Y of a year before 1000 has no leading zeros.
        return f"{moved.year:04d}{moved:%m%d}{found[2] if found else ''}"

    def _digest(self, what: str, original: str) -> bytes:
        return hmac.digest(self._salt, f"{what} {original.strip()}".encode(errors="surrogateescape"), hashlib.sha256)
