from __future__ import annotations

import pytest

from smolmix_sync.ipr.policy import ExitPolicy, PolicyRule, is_global


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("1.1.1.1", True),
        ("10.1.2.3", False),
        ("172.31.0.1", False),
        ("172.32.0.1", True),
        ("192.168.0.1", False),
        ("100.64.0.1", False),
        ("127.0.0.1", False),
        ("169.254.1.1", False),
        ("192.0.0.8", False),
        ("192.0.0.9", True),
        ("198.51.100.7", False),
        ("255.255.255.255", False),
        ("::1", False),
        ("::ffff:8.8.8.8", False),
        ("64:ff9b:1::1", False),
        ("2001:0:1::1", False),
        ("2001:20::1", True),
        ("2001:db8::1", False),
        ("2002::1", False),
        ("fc00::2", False),
        ("fe80::1", False),
        ("2606:4700:4700::1111", True),
    ],
)
def test_only_public_addresses_are_global(host: str, expected: bool) -> None:
    assert is_global(host) is expected


POLICY = """
# a comment
reject 5.0.0.0/8:*
accept *:443   # trailing
accept 9.9.9.9:50-60
reject6 *:80
accept *:80
accept6 [2606:4700::]/32:1000
"""


@pytest.mark.parametrize(
    ("host", "port", "expected"),
    [
        ("5.1.1.1", 443, False),
        ("6.1.1.1", 443, True),
        ("6.1.1.1", 444, False),
        ("9.9.9.9", 50, True),
        ("9.9.9.9", 61, False),
        ("6.1.1.1", 80, True),
        ("2606:4700::1", 80, False),
        ("2606:4700::1", 1000, True),
        ("2607::1", 1000, False),
        ("6.1.1.1", 0, True),
        ("5.1.1.1", 0, False),
        ("10.0.0.1", 443, False),
    ],
)
def test_the_first_rule_that_matches_decides(host: str, port: int, expected: bool) -> None:
    assert ExitPolicy.parse(POLICY)(host, port) is expected


def test_local_addresses_can_be_allowed() -> None:
    assert ExitPolicy.parse("accept *:*", allow_local=True)("10.0.0.1", 1)


@pytest.mark.parametrize(
    "line",
    [
        "accept",
        "allow *:1",
        "accept *:0",
        "accept *:9-3",
        "accept *:x",
        "accept 1.2.3:1",
        "accept *:65536",
        "reject *",
    ],
)
def test_a_line_that_is_no_rule_is_refused(line: str) -> None:
    with pytest.raises(ValueError):
        PolicyRule.parse(line)
