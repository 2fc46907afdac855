"""The two compound values of the IPR protocol: an address pair and a timestamp.

Source: spec/ipr.md section 1.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from smolmix_sync.errors import WireError

__all__ = ["IpPair", "Timestamp"]

_NANOS_PER_DAY = 86_400 * 10**9
# Days from 0000-01-01 to 1970-01-01 in the proleptic Gregorian calendar.
_EPOCH_DAYS = 719_528
# From the specification: the range of the time crate without `large-dates`, and of UtcOffset.
_YEAR_LIMIT = 9999
_OFFSET_HOUR_LIMIT = 25


@dataclass(frozen=True, slots=True)
class IpPair:
    """The IPv4 and IPv6 address an exit gave us.

    Both are kept in their canonical text form, so that two pairs naming the same
    addresses compare equal.

    Source: common/ip-packet-requests/src/lib.rs.
    """

    ipv4: str
    ipv6: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "ipv4", str(ipaddress.IPv4Address(self.ipv4)))
        object.__setattr__(self, "ipv6", str(ipaddress.IPv6Address(self.ipv6)))

    def encode(self) -> bytes:
        """Return the 20 octets of the pair: IPv4, then IPv6, both raw."""
        return ipaddress.IPv4Address(self.ipv4).packed + ipaddress.IPv6Address(self.ipv6).packed

    @classmethod
    def decode_untrusted(cls, data: bytes) -> IpPair:
        """Decode exactly 20 octets.

        Raises:
            WireError: *data* is not 20 octets long.
        """
        if len(data) != 20:
            raise WireError("an address pair has 20 octets")
        return cls(str(ipaddress.IPv4Address(data[:4])), str(ipaddress.IPv6Address(data[4:])))

    @property
    def is_usable(self) -> bool:
        """Whether a host can have these addresses: not loopback, link-local, multicast, mapped or unspecified ones."""
        v4, v6 = ipaddress.IPv4Address(self.ipv4), ipaddress.IPv6Address(self.ipv6)
        special = any(
            one.is_loopback or one.is_link_local or one.is_multicast or one.is_unspecified for one in (v4, v6)
        )
        return not special and 0 < v4.packed[0] < 224 and v6.ipv4_mapped is None

    def __str__(self) -> str:
        return f"{self.ipv4}, {self.ipv6}"


def _is_leap(year: int) -> bool:
    return year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)


def _days_before(year: int) -> int:
    """Return the days from 0000-01-01 to the first of January of *year* (negative before year 0)."""
    past = year - 1
    return year * 365 + past // 4 - past // 100 + past // 400 + 1


@dataclass(frozen=True, slots=True)
class Timestamp:
    """An ``OffsetDateTime`` of Rust's time crate, field by field as it travels.

    Source: spec/ipr.md section 1.
    """

    year: int
    ordinal: int
    hour: int
    minute: int
    second: int
    nanosecond: int
    offset_hours: int = 0
    offset_minutes: int = 0
    offset_seconds: int = 0

    def check_untrusted(self) -> None:
        """Check the ranges that the real decoder checks.

        Raises:
            WireError: a field is out of its range.
        """
        ok = (
            -_YEAR_LIMIT <= self.year <= _YEAR_LIMIT
            and 1 <= self.ordinal <= 365 + _is_leap(self.year)
            and 0 <= self.hour <= 23
            and 0 <= self.minute <= 59
            and 0 <= self.second <= 59
            and 0 <= self.nanosecond <= 999_999_999
            and abs(self.offset_hours) <= _OFFSET_HOUR_LIMIT
            and abs(self.offset_minutes) <= 59
            and abs(self.offset_seconds) <= 59
        )
        if not ok:
            raise WireError("timestamp field out of range")

    @classmethod
    def from_unix_nanos(cls, nanos: int) -> Timestamp:
        """Return the UTC timestamp *nanos* nanoseconds after 1970-01-01."""
        days, rest = divmod(nanos, _NANOS_PER_DAY)
        days += _EPOCH_DAYS
        # 146097 days are 400 years; the estimate is off by one year at most.
        year = days * 400 // 146_097
        while _days_before(year + 1) <= days:
            year += 1
        while _days_before(year) > days:
            year -= 1
        seconds, nanosecond = divmod(rest, 10**9)
        minutes, second = divmod(seconds, 60)
        hour, minute = divmod(minutes, 60)
        return cls(year, days - _days_before(year) + 1, hour, minute, second, nanosecond)

    @classmethod
    def from_unix(cls, seconds: float) -> Timestamp:
        """Return the UTC timestamp of *seconds* since 1970-01-01, to the microsecond."""
        return cls.from_unix_nanos(round(seconds * 1_000_000) * 1000)

    @property
    def unix_nanos(self) -> int:
        """Nanoseconds since 1970-01-01 UTC."""
        days = _days_before(self.year) + self.ordinal - 1 - _EPOCH_DAYS
        seconds = (self.hour * 60 + self.minute) * 60 + self.second
        seconds -= (self.offset_hours * 60 + self.offset_minutes) * 60 + self.offset_seconds
        return days * _NANOS_PER_DAY + seconds * 10**9 + self.nanosecond
