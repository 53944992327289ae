"""Pseudonyms: equal for equal originals under the same salt, and not reversible without the salt."""

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
"""Environment variable with the secret salt. The same salt gives the same pseudonyms in other runs."""

MIN_SALT_LENGTH = 16
"""Characters of a salt at least. UIDs and patient IDs can be guessed, so a guessed salt would reveal the patient."""

MAX_SHIFT_DAYS = 3650

STANDARD_ROOT = "1.2.840.10008."
"""Root of the UIDs that the standard defines (SOP classes, transfer syntaxes), which identify nobody."""

DATE = re.compile(r"(\d{8})(.*)", re.DOTALL)


@dataclass(frozen=True)
class Pseudonyms:
    """Pseudonyms under one salt.

    Attributes:
        given: Whether the user gave the salt, so that other runs can produce the same pseudonyms.
    """

    _salt: bytes = field(repr=False)
    given: bool = True

    @classmethod
    def of_environment(cls) -> Self:
        """Use the salt in the environment variable `SALT`, or a random salt that is not stored anywhere.

        Raises:
            CtbasisError: The salt is too short.
        """
        salt = os.environ.get(SALT, "")
        if not salt:
            return cls(secrets.token_bytes(32), given=False)
        if len(salt) < MIN_SALT_LENGTH:
            raise CtbasisError(
                f"{SALT} has {len(salt)} characters",
                expected=f"at least {MIN_SALT_LENGTH} random characters, or no such variable for a random salt",
                cause="a short salt can be guessed",
                remedy="generate one: python -c 'import secrets; print(secrets.token_hex())'",
            )
        return cls(salt.encode())

    def uid(self, original: str) -> str:
        """Return the pseudonym of a UID: a UUID under 2.25 (PS3.5 B.2). UIDs of the standard are returned unchanged."""
        if not original or original.startswith(STANDARD_ROOT):
            return original
        return f"2.25.{uuid.UUID(bytes=self._digest('uid', original)[:16], version=4).int}"

    def patient(self, original: str) -> str:
        """Return the pseudonym of a PatientID: CTB- and 12 letters and digits."""
        return f"CTB-{base64.b32encode(self._digest('patient', original))[:12].decode()}"

    def token(self, original: str) -> str:
        """Return a token that is equal for equal values, and reveals nothing else about them."""
        return f"#{self._digest('token', original)[:4].hex()}"

    def shift_date(self, date: str, patient: str) -> str | None:
        """Shift a DA or DT value into the past by 1 to `MAX_SHIFT_DAYS` days, constant for each patient.

        Args:
            date: The value.
            patient: The value from which the patient's pseudonyms are derived.

        Returns:
            The shifted value, or None if `date` is not a valid date.
        """
        match = DATE.fullmatch(date.strip())
        days = 1 + int.from_bytes(self._digest("days", patient)[:8], "big") % MAX_SHIFT_DAYS
        try:
            shifted = datetime.strptime(match[1] if match else "", "%Y%m%d") - timedelta(days)  # noqa: DTZ007 - a date
        except (ValueError, OverflowError):
            return None
        # %Y has no leading zeros for years before 1000.
        return f"{shifted.year:04d}{shifted:%m%d}{match[2] if match else ''}"

    def _digest(self, what: str, original: str) -> bytes:
        return hmac.digest(self._salt, f"{what} {original.strip()}".encode(errors="surrogateescape"), hashlib.sha256)
