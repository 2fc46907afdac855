from __future__ import annotations

import pytest

from smolmix_sync.ipr.version import best_supported_version, choose_version


@pytest.mark.parametrize(
    ("build", "best"),
    [
        ("1.37.0-rc.1", 9),
        ("1.37.1-rc.1", 10),
        ("1.30.0-rc.3", None),
        ("2.0.0", 10),
        (" v1.36.5+build.7 ", 9),
        ("1.37", None),
        ("", None),
        ("1.037.0", None),
        ("latest", None),
    ],
)
def test_builds_rank_as_semantic_versions(build: str, best: int | None) -> None:
    assert best_supported_version(build) == best


def test_an_unknown_or_old_build_gets_v9_at_once() -> None:
    assert choose_version(None) == 9
    assert choose_version("1.12.0") == 9
    assert choose_version("1.38.2") == 10
