from __future__ import annotations

import datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from smolmix_sync.errors import WireError
from smolmix_sync.ipr.values import IpPair, Timestamp

EPOCH = datetime.datetime(1970, 1, 1)


@given(st.datetimes())
@example(datetime.datetime(2096, 12, 31))
@example(datetime.datetime(2001, 1, 1))
def test_timestamps_agree_with_the_calendar_of_the_stdlib(moment: datetime.datetime) -> None:
    nanos = (moment - EPOCH) // datetime.timedelta(microseconds=1) * 1000
    stamp = Timestamp.from_unix_nanos(nanos)
    assert (stamp.year, stamp.ordinal) == (moment.year, moment.timetuple().tm_yday)
    assert (stamp.hour, stamp.minute, stamp.second) == (moment.hour, moment.minute, moment.second)
    assert stamp.nanosecond == moment.microsecond * 1000
    assert stamp.unix_nanos == nanos
    stamp.check_untrusted()


@given(st.integers(-(10**21), 10**21))
def test_unix_nanoseconds_come_back_from_any_age(nanos: int) -> None:
    assert Timestamp.from_unix_nanos(nanos).unix_nanos == nanos


def test_an_offset_is_taken_off() -> None:
    assert Timestamp(1970, 1, 2, 30, 15, 0, 2, 30, 15).unix_nanos == 0
    assert Timestamp.from_unix(1.5).unix_nanos == 1_500_000_000


@pytest.mark.parametrize(
    "fields",
    [
        (10000, 1, 0, 0, 0, 0),
        (2023, 366, 0, 0, 0, 0),
        (2024, 367, 0, 0, 0, 0),
        (2024, 0, 0, 0, 0, 0),
        (2024, 1, 24, 0, 0, 0),
        (2024, 1, 0, 60, 0, 0),
        (2024, 1, 0, 0, 60, 0),
        (2024, 1, 0, 0, 0, 10**9),
        (2024, 1, 0, 0, 0, 0, 26, 0, 0),
        (2024, 1, 0, 0, 0, 0, 0, -60, 0),
        (2024, 1, 0, 0, 0, 0, 0, 0, 60),
    ],
)
def test_fields_out_of_range_are_refused(fields: tuple[int, ...]) -> None:
    with pytest.raises(WireError):
        Timestamp(*fields).check_untrusted()


def test_leap_years_have_366_days() -> None:
    for year in (2000, 2024, -4):
        Timestamp(year, 366, 0, 0, 0, 0).check_untrusted()


def test_address_pairs_are_canonical() -> None:
    pair = IpPair("10.0.0.2", "FC00:0::0002")
    assert pair == IpPair("10.0.0.2", "fc00::2")
    assert str(pair) == "10.0.0.2, fc00::2"
    assert IpPair.decode_untrusted(pair.encode()) == pair
    with pytest.raises(WireError):
        IpPair.decode_untrusted(bytes(19))
    with pytest.raises(ValueError):
        IpPair("10.0.0.2", "10.0.0.2")
