"""Pseudonyms: equal for equal originals under the same salt, and not reversible without the salt."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import secrets
import uuid
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Self

from ctbasis.dicom.deidentify.allow_list import STANDARD_UIDS
from ctbasis.dicom.deidentify.values import parse_date, parse_date_time
from ctbasis.errors import CtbasisError

SALT = "CTBASIS_DEIDENTIFY_SALT"
"""Environment variable with the secret salt. The same salt gives the same pseudonyms in other runs."""

MIN_SALT_LENGTH = 16
"""Characters of a salt at least. UIDs and patient IDs can be guessed, so a guessed salt would reveal the patient."""

MAX_SHIFT_DAYS = 3650


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
        """Return the pseudonym of a UID: a UUID under 2.25 (PS3.5 B.2). UIDs that PS3.6 registers are kept."""
        if not original or original in STANDARD_UIDS:
            return original
        return f"2.25.{uuid.UUID(bytes=self._digest('uid', original)[:16], version=4).int}"

    def patient(self, original: str) -> str:
        """Return the pseudonym of a PatientID: CTB- and 12 letters and digits."""
        return f"CTB-{base64.b32encode(self._digest('patient', original))[:12].decode()}"

    def token(self, original: str) -> str:
        """Return a token that is equal for equal values, and reveals nothing else about them."""
        return f"#{self._digest('token', original)[:4].hex()}"

    def shift_date(self, date: str, patient: str) -> str | None:
        """Shift a DA value into the past by 1 to `MAX_SHIFT_DAYS` days, constant for each patient.

        Args:
            date: The value.
            patient: The value from which the patient's pseudonyms are derived.

        Returns:
            The shifted value, or None if `date` is not a valid date.
        """
        valid = parse_date(date)
        if valid is None:
            return None
        days = 1 + int.from_bytes(self._digest("days", patient)[:8], "big") % MAX_SHIFT_DAYS
        try:
            shifted = datetime.strptime(valid, "%Y%m%d") - timedelta(days)  # noqa: DTZ007 - a date
        except OverflowError:
            return None
        # %Y has no leading zeros for years before 1000.
        return f"{shifted.year:04d}{shifted:%m%d}"

    def shift_date_time(self, value: str, patient: str) -> str | None:
        """Shift the date of a DT value as `shift_date` does; time of day and offset from UTC stay.

        Returns:
            The shifted value, or None if `value` is not valid or has no day.
        """
        parts = parse_date_time(value)
        shifted = self.shift_date(parts[0], patient) if parts else None
        return None if parts is None or shifted is None else f"{shifted}{parts[1]}{parts[2]}"

    def _digest(self, what: str, original: str) -> bytes:
        return hmac.digest(self._salt, f"{what} {original.strip()}".encode(errors="surrogateescape"), hashlib.sha256)
