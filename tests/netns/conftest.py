"""The pair of namespaces and the network in one of them, once for all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.namespaces import Namespaces, made_namespaces, network_in


@pytest.fixture(scope="session")
def namespaces() -> Iterator[Namespaces]:
    with made_namespaces() as pair:
        yield pair


@pytest.fixture(scope="session")
def network(namespaces: Namespaces) -> Iterator[dict[str, object]]:
    with network_in(namespaces) as facts:
        yield facts
