"""The reactor keeps its own time in programs that gevent has patched: ws and wss, a stalled gateway, pings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from support.certificates import Authority
from support.fakegateway import FakeGateway

pytestmark = [pytest.mark.interop, pytest.mark.isolated, pytest.mark.slow]

SECONDS = 5.0

CLIENT = """
import json, os, sys, time
{first}
from smolmix_sync.mixnet.gateway.client import GatewayClient
from smolmix_sync.mixnet.sphinx import MixPacket, NodeAddress
from smolmix_sync.reactor.gateway import GatewayEndpoint, GatewayLink
from smolmix_sync.reactor.loop import ReactorLoop
import gevent
options = json.loads(sys.argv[1])
loop = ReactorLoop().start()
lost, worst, state = [], [0.0], dict(sent=0, stop=False, open=False)
packet = MixPacket(NodeAddress("127.0.0.1", 1789), bytes(2413), 1)

def clock():
    due = loop.now()
    while not state["stop"]:
        due += 0.01
        gevent.sleep(max(0.0, due - loop.now()))
        worst[0] = max(worst[0], loop.now() - due)
        due = max(due, loop.now())

def run():
    client = GatewayClient(os.urandom(32), bytes.fromhex(options["identity"]), urandom=os.urandom)
    link = GatewayLink(client, on_payload=lambda payload, now: None, on_lost=lost.append)
    link.open(GatewayEndpoint(options["host"], options["port"], options["tls"]), timeout=10,
              ca_file=options["ca"], addresses=dict([(options["host"], "127.0.0.1")]))
    state["open"] = True
    while not state["stop"]:
        while link.forward(packet):
            state["sent"] += 1
        gevent.sleep(0.002)
    state["room"] = link.room()
    link.close()

loop.spawn(run)
while not state["open"]:
    time.sleep(0.01)
loop.spawn(clock)
print("open", flush=True)
time.sleep(options["seconds"])
state["stop"] = True
time.sleep(0.2)
print(json.dumps(dict(worst=worst[0], lost=lost, sent=state["sent"])), flush=True)
loop.stop()
"""

FIRST = {
    "plain": "",
    "gevent imported first": "import gevent, gevent.socket, gevent.monkey",
    "patch_all first": "from gevent import monkey; monkey.patch_all()",
    "patch_all after the package": "import smolmix_sync; from gevent import monkey; monkey.patch_all()",
}


@pytest.mark.parametrize("first", list(FIRST))
@pytest.mark.parametrize("tls", [False, True], ids=["ws", "wss"])
def test_timer_is_never_late_while_the_gateway_reads_nothing_and_pings(
    first: str, tls: bool, tmp_path: Path
) -> None:
    authority = Authority()
    context = authority.server_context("gw.example", tmp_path) if tls else None
    with FakeGateway(receive_buffer=4096, tls=context) as gateway:
        options = {
            "identity": gateway.identity.hex(),
            "host": "gw.example",
            "port": gateway.port,
            "tls": tls,
            "ca": authority.write(tmp_path / "ca.pem"),
            "seconds": SECONDS + 1.0,
        }
        code = textwrap.dedent(CLIENT).replace("{first}", FIRST[first])
        command = [sys.executable, "-c", code, json.dumps(options)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                assert process.stdout.readline() == "open\n"
                gateway.paused = True
                until = time.monotonic() + SECONDS
                while time.monotonic() < until:
                    gateway.ping_all(os.urandom(8))
                    time.sleep(0.1)
                gateway.paused = False
                result = json.loads(process.stdout.readline())
                assert process.wait(10) == 0
            finally:
                process.kill()
    assert result["lost"] == []
    assert result["worst"] < 0.1
    assert result["sent"] > 30
    assert len(gateway.pongs) >= 20
