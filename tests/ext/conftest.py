"""One embedded network and one tunnel for the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from smolmix_sync.localnet import LocalNet
from smolmix_sync.tunnel import Tunnel


@pytest.fixture(scope="session")
def net() -> Iterator[LocalNet]:
    with LocalNet(set_default=False) as net:
        yield net


@pytest.fixture(scope="session")
def tunnel(net: LocalNet) -> Iterator[Tunnel]:
    with Tunnel(**net.client_settings()) as tunnel:
        yield tunnel
