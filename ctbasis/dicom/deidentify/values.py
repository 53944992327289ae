"""Grammars of values: a value that is retained is parsed whole and written again; other text is refused."""

from __future__ import annotations

import re
from datetime import datetime

NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,3})?", re.ASCII)
"""A number of the VRs DS and IS."""

MAX_NUMBER_LENGTH = 32
"""Characters of a number at most. DS allows 16; some files have more digits."""

FRAME_NUMBER = re.compile(r"[0-9]{1,6}", re.ASCII)

LEAST_NUMBER, LARGEST_NUMBER = 1e-6, 1e6

UID = re.compile(r"[0-9]+(\.[0-9]+)*", re.ASCII)
MAX_UID_LENGTH = 64

AGE = re.compile(r"\d{3}[DWMY]", re.ASCII)
OFFSET = re.compile(r"[+-](0\d|1[0-4])[0-5]\d", re.ASCII)
"""An offset from UTC, as in DT and TimezoneOffsetFromUTC."""

CODE_STRING = re.compile(r"[A-Z0-9_ ]{1,16}", re.ASCII)

DATE = re.compile(r"(\d{4})(\d{2})(\d{2})|(\d{4})\.(\d{2})\.(\d{2})", re.ASCII)
TIME = re.compile(r"([01]\d|2[0-3])(?::?([0-5]\d)(?::?([0-5]\d|60)(\.\d{1,6})?)?)?", re.ASCII)
DATE_TIME = re.compile(r"(?P<date>\d{4}(?:\d{2}(?:\d{2})?)?)(?P<time>[\d.]*)(?P<offset>[+-]\d{4})?", re.ASCII)


def parse_number(text: str) -> str | None:
    """Return a number as text, or None if `text` is none."""
    number = text.strip()
    return number if len(number) <= MAX_NUMBER_LENGTH and NUMBER.fullmatch(number) else None


def parse_frame_number(text: str) -> str | None:
    """Return a number of a frame as text, or None if `text` is none, or too large to be one."""
    return text.strip() if FRAME_NUMBER.fullmatch(text.strip()) else None


def is_plausible(number: float) -> bool:
    """Return whether a binary number can be a quantity of an image: letters read as a number hardly ever can."""
    return number == 0 or LEAST_NUMBER <= abs(number) <= LARGEST_NUMBER


def is_uid(text: str) -> bool:
    """Return whether `text` has the grammar of a UID."""
    return len(text) <= MAX_UID_LENGTH and UID.fullmatch(text) is not None


def parse_date(text: str) -> str | None:
    """Return a date of the calendar as YYYYMMDD, or None if `text` is none; YYYY.MM.DD of older files is read."""
    match = DATE.fullmatch(text.strip())
    date = "".join(filter(None, match.groups())) if match else ""
    try:
        datetime.strptime(date, "%Y%m%d")  # noqa: DTZ007 - a date
    except ValueError:
        return None
    return date


def parse_time(text: str) -> str | None:
    """Return a time of day as HH, HHMM, HHMMSS or HHMMSS.F, or None if `text` is none; HH:MM:SS is read."""
    match = TIME.fullmatch(text.strip())
    return "".join(filter(None, match.groups())) if match else None


def parse_date_time(text: str) -> tuple[str, str, str] | None:
    """Return date, time and offset from UTC of a DT value, or None if `text` is none; the last two may be empty."""
    match = DATE_TIME.fullmatch(text.strip())
    if match is None:
        return None
    date, time, offset = match["date"], match["time"], match["offset"] or ""
    whole = parse_date(f"{date}0101"[:8] if len(date) == 4 else f"{date}01"[:8])  # noqa: PLR2004 - a year
    if whole is None or (time and (len(date) < len("YYYYMMDD") or parse_time(time) is None)):
        return None
    return (date, time, offset) if not offset or OFFSET.fullmatch(offset) else None


def parse_value(vr: str, text: str) -> str | None:
    """Return a retained value by the grammar of its VR, or None if it does not follow the grammar.

    Text of the VRs LO, SH, ST, LT, UC, UT and PN has no grammar and is returned as it is.

    Args:
        vr: Value representation.
        text: The value.
    """
    plain = text.strip()
    grammar = {"AS": AGE, "CS": CODE_STRING}.get(vr)
    if grammar is not None:
        return plain if grammar.fullmatch(plain) else None
    if vr == "DT":
        parts = parse_date_time(plain)
        return None if parts is None else "".join(parts)
    if vr == "UI":
        return plain if is_uid(plain) else None
    if vr in {"DA", "TM", "DS", "IS"}:
        return {"DA": parse_date, "TM": parse_time, "DS": parse_number, "IS": parse_number}[vr](plain)
    return text if vr in {"LO", "SH", "ST", "LT", "UC", "UT", "PN"} else None
