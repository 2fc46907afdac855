"""The two date formats of nym-api, without a clock and without datetime.

Source: spec/topology.md section 4.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from smolmix_sync.errors import WireError

__all__ = ["EPOCH", "Timestamp"]

_NANOS: Final = 1_000_000_000
_DATE = r"(\d{4})-(\d{2})-(\d{2})"
_TIME = r"(\d{2}):(\d{2}):(\d{2})"
_RFC3339 = re.compile(
    rf"{_DATE}[Tt]{_TIME}(?:\.(\d{{1,9}})\d*)?(?:([Zz])|([+-])(\d{{2}}):(\d{{2}}))", re.ASCII
)
_OWN = re.compile(rf"{_DATE} {_TIME}\.(\d{{1,9}}) ([+-])(\d{{2}})(?::(\d{{2}})(?::(\d{{2}}))?)?", re.ASCII)
_MONTH_DAYS: Final = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


def _days_from_civil(year: int, month: int, day: int) -> int:
    """Return the days from 1970-01-01 to a date of the Gregorian calendar."""
    year -= month <= 2
    era, of_era = divmod(year, 400)
    of_year = (153 * ((month + 9) % 12) + 2) // 5 + day - 1
    return era * 146_097 + of_era * 365 + of_era // 4 - of_era // 100 + of_year - 719_468


def _civil_from_days(days: int) -> tuple[int, int, int]:
    """Return year, month and day of a number of days since 1970-01-01."""
    era, of_era = divmod(days + 719_468, 146_097)
    year = (of_era - of_era // 1460 + of_era // 36_524 - of_era // 146_096) // 365
    of_year = of_era - (365 * year + year // 4 - year // 100)
    shifted = (5 * of_year + 2) // 153
    day = of_year - (153 * shifted + 2) // 5 + 1
    month = shifted + 3 if shifted < 10 else shifted - 9
    return year + era * 400 + (month <= 2), month, day


def _seconds(fields: tuple[str, ...]) -> int:
    year, month, day, hour, minute, second = (int(field) for field in fields)
    if not 1 <= month <= 12 or hour > 23 or minute > 59 or second > 59:
        raise WireError("date or time is out of range")
    leap = month == 2 and year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    if not 1 <= day <= _MONTH_DAYS[month - 1] + leap:
        raise WireError("day is out of range")
    return _days_from_civil(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second


def _offset(sign: str, hours: str, minutes: str | None, seconds: str | None = None) -> int:
    parts = (int(hours), int(minutes or 0), int(seconds or 0))
    if parts[0] > 25 or parts[1] > 59 or parts[2] > 59:
        raise WireError("offset from UTC is out of range")
    value = parts[0] * 3600 + parts[1] * 60 + parts[2]
    return -value if sign == "-" else value


@dataclass(frozen=True, slots=True)
class Timestamp:
    """A moment: Unix seconds, nanoseconds within, and the offset from UTC it was written with."""

    seconds: int
    nanos: int = 0
    offset: int = 0

    @property
    def unix(self) -> float:
        """The moment as float Unix seconds."""
        return self.seconds + self.nanos / _NANOS

    @classmethod
    def from_unix(cls, unix: float) -> Timestamp:
        """Return the moment of float Unix seconds, in UTC."""
        seconds, nanos = divmod(round(unix * _NANOS), _NANOS)
        return cls(seconds, nanos)

    @classmethod
    def parse_rfc3339_untrusted(cls, text: str) -> Timestamp:
        """Parse RFC 3339 as in ``2026-05-15T09:01:02.5Z``.

        Raises:
            WireError: the text has another form or names no real moment.
        """
        match = _RFC3339.fullmatch(text)
        if match is None:
            raise WireError("not an RFC 3339 timestamp")
        *date, fraction, _, sign, hours, minutes = match.groups()
        offset = 0 if sign is None else _offset(sign, hours, minutes)
        if abs(offset) >= 86_400:
            raise WireError("offset from UTC is out of range")
        return cls(_seconds(tuple(date)) - offset, int((fraction or "0").ljust(9, "0")), offset)

    @classmethod
    def parse_own_untrusted(cls, text: str) -> Timestamp:
        """Parse nym-api's own form, ``2026-05-15 09:01:02.5 +00:00:00``.

        Raises:
            WireError: the text has another form or names no real moment.
        """
        match = _OWN.fullmatch(text)
        if match is None:
            raise WireError("not a timestamp of nym-api")
        *date, fraction, sign, hours, minutes, seconds = match.groups()
        offset = _offset(sign, hours, minutes, seconds)
        return cls(_seconds(tuple(date)) - offset, int(fraction.ljust(9, "0")), offset)

    @classmethod
    def parse_lenient(cls, text: str) -> Timestamp:
        """Parse either form; anything else is 1970, as nym-api's clients have it."""
        for parse in (cls.parse_own_untrusted, cls.parse_rfc3339_untrusted):
            try:
                return parse(text)
            except WireError:
                continue
        return EPOCH

    def _parts(self, separator: str) -> str:
        days, rest = divmod(self.seconds + self.offset, 86_400)
        year, month, day = _civil_from_days(days)
        clock = f"{rest // 3600:02}:{rest // 60 % 60:02}:{rest % 60:02}"
        return f"{year:04}-{month:02}-{day:02}{separator}{clock}"

    def _fraction(self) -> str:
        return f"{self.nanos:09}".rstrip("0")

    def rfc3339(self) -> str:
        """Return RFC 3339, with as many digits of the second as needed."""
        fraction = f".{self._fraction()}" if self.nanos else ""
        if not self.offset:
            return f"{self._parts('T')}{fraction}Z"
        sign = "-" if self.offset < 0 else "+"
        hours, minutes = divmod(abs(self.offset) // 60, 60)
        return f"{self._parts('T')}{fraction}{sign}{hours:02}:{minutes:02}"

    def own(self) -> str:
        """Return nym-api's own form, with at least one digit after the second."""
        sign = "-" if self.offset < 0 else "+"
        minutes, seconds = divmod(abs(self.offset), 60)
        offset = f"{sign}{minutes // 60:02}:{minutes % 60:02}:{seconds:02}"
        return f"{self._parts(' ')}.{self._fraction() or '0'} {offset}"


#: What a timestamp that cannot be read becomes.
EPOCH: Final = Timestamp(0)
