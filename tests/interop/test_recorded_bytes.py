"""What real nodes, clients and browsers sent us once is still understood (tests/vectors/recorded)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support import recorded, vectors

FILES = sorted(recorded.folder().glob("*.json"))


@pytest.mark.skipif(not FILES, reason="vectors: no recordings in this set")
@pytest.mark.parametrize("path", FILES or [Path("none")], ids=lambda path: path.stem)
def test_recorded_vector_octets_of_others_are_read_as_when_they_were_sent(path: Path) -> None:
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    assert set(document["provenance"]) >= {"peer", "version", "date", "network"}
    assert document["cases"]
    for index, case in enumerate(document["cases"]):
        assert case["direction"] == "peer_to_us"
        assert recorded.differences(case) == {}, f"{path.name}[{index}] {case['kind']}"
    vectors.reported.append(f"vector cases recorded/{path.name}: {len(document['cases'])}")


@pytest.mark.skipif(not FILES, reason="vectors: no recordings in this set")
def test_every_known_kind_was_recorded_from_somebody() -> None:
    kinds = {case["kind"] for path in FILES for case in json.loads(path.read_text())["cases"]}
    assert kinds == set(recorded.READERS)
