"""Makes ``tests/vectors/recorded/browser_localnet.json``: what the browser client sends a localnet with throw-away keys.

Run: ``PYTHONPATH=tests python -m interop.browser.record``.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from interop.browser.driver import Browser, Page, install, version
from support import record_bytes, recorded

from smolmix_sync.localnet import LocalNet

Json = dict[str, Any]
HOSTNAME = "gateway.localnet"
#: Every version of the session, and the build that announces it.
BUILDS = {10: "1.37.0", 9: "1.36.9"}


def use(page: Page, gateway: str) -> None:
    """Do something of everything: a name, a page, an upload, a websocket; then come back as the same client."""
    assert page.ask("setup", {"preferredGateway": gateway}, timeout=90).get("state") == "ready"
    page.ask("resolve", "nothing.localnet")
    page.ask("fetch", "http://www.localnet/")
    page.ask("upload", "http://www.localnet/echo", 4000, timeout=90)
    page.ask("websocket", "ws://www.localnet/ws", [], ["hello"], [5000])
    page.ask("disconnect")
    page.reload()
    assert page.ask("setup", {"preferredGateway": gateway}, timeout=90).get("state") == "ready"


def record(folder: Path) -> None:
    packages = install()
    for session, build in BUILDS.items():
        notes = folder / f"v{session}"
        notes.mkdir()
        os.environ["RECORD_WIRE"] = str(notes)
        with (
            LocalNet(hostname=HOSTNAME, build_version=build, set_default=False) as net,
            Browser(packages, net.node("nym-api").ports["https"][1], HOSTNAME) as browser,
            browser.page() as page,
        ):
            use(page, net.gateway_identity)


def cases(folder: Path) -> list[Json]:
    """Return some cases of every shape, and packets of the client's own cover."""
    others: list[Json] = []
    cover: list[Json] = []
    for session in BUILDS:
        found = list(record_bytes.service_cases(list(record_bytes.notes(folder / f"v{session}"))))
        answers = [recorded.read(case) for case in found if case["kind"] == "gateway_handshake_answer"]
        clients = {answer["client_identity"] for answer in answers}
        for case in found:
            to_itself = case["kind"] == "sphinx_route" and recorded.read(case)["destination"] in clients
            (cover if to_itself else others).append(case)
    return [
        case for group in (others, cover) for case in record_bytes.choose(iter(group), peer_is_client=True)
    ]


def main() -> None:
    tests = Path(__file__).resolve().parents[2]
    # The processes of the network find the recorder there.
    os.environ["PYTHONPATH"] = os.pathsep.join([str(record_bytes.RECORDER), str(tests)])
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(sys.argv[1] if len(sys.argv) > 1 else temporary)
        folder.mkdir(exist_ok=True)
        if not any(folder.iterdir()):
            record(folder)
        found = cases(folder)
    record_bytes.NETWORKS["browser"] = record_bytes.NETWORKS["smolmix"]
    print(record_bytes.write("browser_localnet", "mix-tunnel", version("mix-tunnel"), found))


if __name__ == "__main__":
    main()
