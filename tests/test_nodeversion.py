from __future__ import annotations

import pytest

from smolmix_sync.nodeversion import at_least, best_ipr_version, ipr_version_for


@pytest.mark.parametrize(
    ("version", "best"),
    [
        ("1.37.0", 10),
        ("1.37.0+build.5", 10),
        ("1.37.0-rc.1", 9),
        ("1.37.1-rc.1", 10),
        ("2.0.0", 10),
        ("1.36.99", 9),
        (" v1.36.5+build.7 ", 9),
        ("1.30.0", 9),
        ("1.30.0-rc.3", None),
        ("1.12.0", None),
        ("1.37", None),
        ("1.037.0", None),
        ("01.37.0", None),
        ("1.37.0-", None),
        ("latest", None),
        ("", None),
        (None, None),
    ],
)
def test_versions_rank_as_semantic_versions_and_unknown_ones_get_nine(
    version: str | None, best: int | None
) -> None:
    assert best_ipr_version(version) == best
    assert ipr_version_for(version) == (best or 9)


def test_a_pre_release_comes_before_its_release() -> None:
    assert at_least("1.0.0-alpha", (1, 0, 0)) is False
    assert at_least("1.0.0", (1, 0, 0)) is True
    assert at_least("one", (1, 0, 0)) is None
