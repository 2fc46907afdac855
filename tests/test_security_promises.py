"""Every promise of SECURITY.rst names tests, and every test that it names exists."""

from __future__ import annotations

import ast
import re

import pytest
from support.named_tests import ROOT, missing, named_in

TEXT = (ROOT / "SECURITY.rst").read_text()

#: Against whom something has to be promised.
PARTIES = [
    "The local network", "The entry gateway", "The mix nodes", "The exit", "nym-api", "The destination",
    "Other users of this machine", "Other processes, through the daemon", "The program's own libraries",
    "Keys, logs and randomness",
]  # fmt: skip


def section(title: str, underline: str) -> str:
    """Return the text below a heading, up to the next one of its kind or above."""
    begin = TEXT.index(f"\n{title}\n{underline * len(title)}\n")
    rest = TEXT[begin + 2 * len(title) + 3 :]
    end = re.search(r"\n\S.*\n(-{4,}|={4,}" + (r"|~{4,}" if underline == "~" else "") + r")\n", rest)
    return rest[: end.start()] if end else rest


def promises(party: str) -> list[str]:
    return [re.sub(r"\s+", " ", one) for one in re.split(r"^\* ", section(party, "~"), flags=re.M)[1:]]


ALL = [pytest.param(one, id=f"{party}: {one[:60]}") for party in PARTIES for one in promises(party)]


@pytest.mark.parametrize("promise", ALL)
def test_promise_has_tests_and_they_exist(promise: str) -> None:
    assert named_in(promise), "nothing shows it"
    assert missing(promise) == []


def test_every_party_is_there_and_no_promise_is_outside() -> None:
    headings = re.findall(r"^(\S.*)\n~{4,}$", TEXT, re.M)
    assert headings == PARTIES
    assert all(promises(party) for party in PARTIES)
    inside = sum(len(named_in(one)) for party in PARTIES for one in promises(party))
    assert inside == len(named_in(TEXT)) > 60


def test_what_is_not_promised_and_what_goes_outside_is_said() -> None:
    assert section("What is not promised", "-").count("\n* ") >= 10
    assert section("What goes outside the tunnel", "-").count("\n* ") == 3
    assert "privately" in section("Reporting", "-")


def test_malicious_parties_have_a_page_of_attacks_each() -> None:
    """Fifteen attacks by name at least, for each of the four."""
    for party in ("gateway", "exit", "directory", "daemon_client"):
        assert f"tests/hostile/test_{party}.py" in TEXT
        tree = ast.parse((ROOT / "tests" / "hostile" / f"test_{party}.py").read_text())
        rows = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args:
                first = node.args[0]
                if node.func.id in ("setup", "ready", "session", "packets", "attack") and isinstance(
                    first, ast.Constant
                ):
                    rows.add(first.value)
            if isinstance(node, ast.Dict):
                rows |= {
                    key.value for key in node.keys if isinstance(key, ast.Constant) and " " in str(key.value)
                }
        assert len(rows) >= 15, party
        assert all(row[0].islower() or row[0].isdigit() for row in rows)


def test_page_of_the_manual_is_this_one() -> None:
    page = (ROOT / "docs" / "security-model.rst").read_text()
    lines = int(re.search(r"include:: \.\./SECURITY\.rst\n   :start-line: (\d+)", page)[1])  # type: ignore[index]
    assert TEXT.splitlines()[lines].startswith("This is the threat model")
    assert "SECURITY.rst" in (ROOT / "README.rst").read_text()
