"""The real browser client (npm packages of its authors, see browser/) in Chromium, on our localnet."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from interop.browser import driver
from interop.browser.driver import Browser, Page

from smolmix_sync.localnet import LocalNet
from smolmix_sync.localnet.site import pattern

_MISSING = driver.missing()
pytestmark = [
    pytest.mark.interop,
    pytest.mark.long,
    pytest.mark.timeout(400),
    pytest.mark.skipif(_MISSING is not None, reason=f"{_MISSING}"),
]

MEGABYTE = 1_000_000
HOSTNAME = "gateway.localnet"
SITE = "http://www.localnet"
#: The last version of a node whose exit is taken for one that knows no version 10, and the first of the others.
BUILD_OF = {9: "1.36.9", 10: "1.37.0"}
UNPACED = {"disablePoissonTraffic": True, "disableCoverTraffic": True}
UNKNOWN_ISSUER = "IO error: invalid peer certificate: UnknownIssuer"


@dataclass
class Peer:
    """A network, a browser that knows it, and a page with a tunnel that is ready."""

    version: int
    net: LocalNet
    browser: Browser
    page: Page
    setup: dict[str, Any]

    def count(self, node: str, counter: str) -> int:
        return self.net.node(node).stats().get(counter, 0)


def options(net: LocalNet, **more: Any) -> dict[str, Any]:
    return {"preferredGateway": net.gateway_identity, **more}


def browser_for(net: LocalNet, packages: Path) -> Browser:
    return Browser(packages, net.node("nym-api").ports["https"][1], HOSTNAME)


def set_up(page: Page, net: LocalNet, **more: Any) -> dict[str, Any]:
    return page.ask("setup", options(net, **more), timeout=90)


@pytest.fixture(scope="module")
def packages() -> Path:
    return driver.install()


@pytest.fixture(scope="module", params=[9, 10])
def peer(request: pytest.FixtureRequest, packages: Path) -> Iterator[Peer]:
    version: int = request.param
    with (
        LocalNet(hostname=HOSTNAME, build_version=BUILD_OF[version], set_default=False) as net,
        browser_for(net, packages) as browser,
        browser.page() as page,
    ):
        yield Peer(version, net, browser, page, set_up(page, net))


# Set-up


def test_the_browser_client_sets_up_a_tunnel_over_wss(peer: Peer) -> None:
    assert peer.setup.get("state") == "ready", peer.setup
    assert peer.setup["seconds"] < 15
    assert peer.count("entry", "websockets_tls") == 2, "one to register, one to stay"
    assert peer.count("entry", "websockets") == 2
    assert peer.count("entry", "registrations") == 1
    assert peer.count("exit", f"ipr_clients_v{peer.version}") == 1
    assert peer.count("exit", "ipr_clients") == 1


def test_the_browser_client_asks_the_directory_for_all_it_needs(peer: Peer) -> None:
    # Runs right after the set-up; every request of a page is preceded by the browser's own.
    asked = peer.net.node("nym-api").command("requests")
    wanted = [said for said in asked if said["method"] == "GET"]
    skimmed = "/api/v2/unstable/nym-nodes/skimmed"
    assert wanted[0]["target"] == f"{skimmed}/entry-gateways?page=0&output=bincode"
    assert wanted[1]["target"] == "/api/v1/epoch/key-rotation-info"
    assert {said["target"].partition("?")[0] for said in wanted[2:5]} == {
        "/api/v1/nym-nodes/rewarded-set",
        f"{skimmed}/mixnodes/active",
        f"{skimmed}/entry-gateways",
    }
    assert [said["target"].partition("?")[0] for said in wanted[5:]] == [
        "/api/v2/nym-nodes/described",
        skimmed,
    ]
    assert all(said["origin"] == peer.browser.origin for said in asked)
    by_browser = sorted(said["target"] for said in asked if said["method"] == "OPTIONS")
    assert by_browser == sorted(said["target"] for said in wanted)


def test_the_browser_client_sets_up_a_tunnel_over_ws(peer: Peer) -> None:
    before = peer.count("entry", "websockets_tls")
    with peer.browser.page() as page:
        assert set_up(page, peer.net, forceTls=False).get("state") == "ready"
        assert page.ask("resolve", "echo.localnet").get("address") == "198.51.100.10"
    assert peer.count("entry", "websockets_tls") == before


def test_the_browser_client_takes_the_exit_that_it_is_told_to(peer: Peer) -> None:
    before = len(peer.net.node("nym-api").command("requests"))
    with peer.browser.page() as page:
        assert set_up(page, peer.net, preferredIpr=peer.net.ipr_address).get("state") == "ready"
        assert page.ask("fetch", f"{SITE}/").get("status") == 200
    asked = peer.net.node("nym-api").command("requests")[before:]
    targets = {said["target"].partition("?")[0] for said in asked}
    assert "/api/v2/nym-nodes/described" in targets
    assert "/api/v2/unstable/nym-nodes/skimmed" not in targets


def test_a_browser_client_that_comes_back_authenticates_instead_of_registering_again(peer: Peer) -> None:
    def counts() -> tuple[int, int]:
        return peer.count("entry", "registrations"), peer.count("entry", "authentications")

    with peer.browser.page() as page:
        registered, authenticated = counts()
        assert set_up(page, peer.net).get("state") == "ready"
        first = counts()
        websockets = peer.count("entry", "websockets")
        page.reload()
        assert set_up(page, peer.net).get("state") == "ready"
        second = counts()
        assert peer.count("entry", "websockets") == websockets + 1
        assert page.ask("fetch", f"{SITE}/").get("status") == 200
    assert first[0] == registered + 1
    assert first[1] > authenticated
    assert second[0] == first[0]
    assert second[1] > first[1]


def test_the_browser_client_opens_its_sealed_identity_with_the_right_passphrase_alone(peer: Peer) -> None:
    with peer.browser.page() as page:
        assert set_up(page, peer.net, storagePassphrase="right").get("state") == "ready"
        registered = peer.count("entry", "registrations")
        page.reload()
        assert (
            "the provided passphrase was invalid" in set_up(page, peer.net, storagePassphrase="no")["error"]
        )
        page.reload()
        assert set_up(page, peer.net, storagePassphrase="right").get("state") == "ready"
        assert peer.count("entry", "registrations") == registered


def test_the_browser_client_falls_back_to_v9_where_the_exit_is_older_than_the_directory_says(
    packages: Path,
) -> None:
    with (
        LocalNet(
            hostname=HOSTNAME, build_version=BUILD_OF[10], ipr_versions=(8, 9), set_default=False
        ) as net,
        browser_for(net, packages) as browser,
        browser.page() as page,
    ):
        told = set_up(page, net)
        assert told.get("state") == "ready", told
        assert 15 <= told["seconds"] < 45
        assert net.node("exit").stats()["ipr_clients_v9"] == 1
        assert net.node("exit").stats()["router_dropped_version"] >= 1
        assert page.ask("fetch", f"{SITE}/").get("status") == 200


def test_the_browser_client_takes_no_exit_older_than_v9(packages: Path) -> None:
    with (
        LocalNet(hostname=HOSTNAME, build_version="1.29.9", set_default=False) as net,
        browser_for(net, packages) as browser,
        browser.page() as page,
    ):
        assert "no v9-capable IPRs available" in set_up(page, net)["error"]


def test_the_browser_client_takes_no_gateway_without_a_host_name_for_wss(packages: Path) -> None:
    with (
        LocalNet(set_default=False) as net,
        browser_for(net, packages) as browser,
        browser.page() as page,
    ):
        # A port without a host name is not enough, whether the gateway was asked for or chosen.
        for asked_for in (options(net), {}):
            assert "does not support the wss protocol" in page.ask("setup", asked_for)["error"]
            page.reload()


def test_the_browser_client_is_told_that_the_gateway_wants_tickets(packages: Path) -> None:
    with (
        LocalNet(hostname=HOSTNAME, enforce_tickets=True, set_default=False) as net,
        browser_for(net, packages) as browser,
        browser.page() as page,
    ):
        assert "This gateway is only accepting coconut credentials" in set_up(page, net)["error"]


# Names


def test_the_browser_client_resolves_a_name(peer: Peer) -> None:
    assert peer.page.ask("resolve", "mail.localnet").get("address") == "198.51.100.25"


def test_the_browser_client_remembers_a_name(peer: Peer) -> None:
    first = peer.page.ask("resolve", "echo.localnet")
    queries = peer.count("services", "dns_queries")
    assert peer.page.ask("resolve", "echo.localnet").get("address") == first.get("address") == "198.51.100.10"
    assert peer.count("services", "dns_queries") == queries


def test_the_browser_client_follows_an_alias(peer: Peer) -> None:
    assert peer.page.ask("resolve", "alias.localnet").get("address") == "198.51.100.11"


def test_the_browser_client_resolves_a_name_that_has_only_an_ipv6_address(peer: Peer) -> None:
    assert peer.page.ask("resolve", "v6.localnet").get("address") == "2001:db8:6e79::b"


def test_the_browser_client_says_that_a_name_does_not_exist(peer: Peer) -> None:
    queries = peer.count("services", "dns_queries")
    told = peer.page.ask("resolve", "nothing.localnet")
    assert "no A, AAAA, or CNAME records for nothing.localnet" in told["error"]
    assert peer.count("services", "dns_queries") == queries + 4, "A and AAAA at two resolvers"


# HTTP


def test_the_browser_client_fetches_a_page(peer: Peer) -> None:
    told = peer.page.ask("fetch", f"{SITE}/")
    assert told.get("status") == 200, told
    assert told["text"].startswith("Hello from www.localnet, behind the exit.\n")


def test_the_browser_client_fetches_a_page_over_ipv6(peer: Peer) -> None:
    told = peer.page.ask("fetch", "http://v6.localnet/")
    assert told.get("status") == 200, told
    assert told["text"].startswith("Hello from v6.localnet")


def test_the_browser_client_keeps_a_connection_alive(peer: Peer) -> None:
    peer.page.ask("fetch", f"{SITE}/")
    opened = peer.count("exit", "tcp_connections")
    for _ in range(3):
        assert peer.page.ask("fetch", f"{SITE}/headers").get("status") == 200
    assert peer.count("exit", "tcp_connections") == opened


def test_the_browser_client_fetches_ten_pages_at_once(peer: Peer) -> None:
    told = peer.page.ask("together", [f"{SITE}/bytes/{1000 + number}" for number in range(10)])
    assert [answer["length"] for answer in told["answers"]] == [1000 + number for number in range(10)]


def test_the_browser_client_follows_a_redirect(peer: Peer) -> None:
    told = peer.page.ask("fetch", f"{SITE}/redirect/2")
    assert told.get("status") == 200, told
    assert "GET / http" in told["text"]


def test_the_browser_client_downloads_a_megabyte(peer: Peer) -> None:
    told = peer.page.ask("fetch", f"{SITE}/bytes/{MEGABYTE}", timeout=180)
    assert told.get("length") == MEGABYTE, told
    assert told["sha256"] == hashlib.sha256(pattern(0, MEGABYTE)).hexdigest()


def test_the_browser_client_downloads_where_packets_get_lost(peer: Peer) -> None:
    peer.net.node("mix2").set(drop=0.03)
    try:
        told = peer.page.ask("fetch", f"{SITE}/bytes/100000", timeout=180)
    finally:
        peer.net.node("mix2").set(drop=0.0)
    assert told.get("length") == 100_000, told


def test_the_browser_client_uploads_20_kilobytes(peer: Peer) -> None:
    told = peer.page.ask("upload", f"{SITE}/echo", 20_000, timeout=120)
    assert told.get("length") == 20_000, told
    assert told["sha256"] == told["expected"]


def test_the_browser_client_is_told_that_a_port_is_closed(peer: Peer) -> None:
    told = peer.page.ask("fetch", "http://closed.localnet/")
    assert told["error"] == "IO error: TCP connection failed"
    assert told["seconds"] < 10


# Websockets


def test_the_browser_client_gets_echoes_of_a_websocket(peer: Peer) -> None:
    told = peer.page.ask("websocket", "ws://www.localnet/ws", ["echo"], ["hello", "ä€𝄞"], [0, 100, 5000])
    opened, hello, signs, *binary, closed = told["told"]
    assert opened == {"type": "open"}
    assert hello == {"type": "text", "data": "hello"}
    assert signs == {"type": "text", "data": "ä€𝄞"}
    assert [event["length"] for event in binary] == [0, 100, 5000]
    assert [event["sha256"] for event in binary] == told["expected"]
    assert closed["type"] == "close"


# TLS: the client has roots of its own, so what can be seen without a public name is that it refuses ours.


@pytest.mark.parametrize("step", ["fetch", "websocket"])
def test_the_browser_client_refuses_our_certificate_after_the_handshake_crossed_the_tunnel(
    peer: Peer, step: str
) -> None:
    def relayed() -> tuple[int, int]:
        return peer.count("exit", "relayed_in"), peer.count("exit", "relayed_out")

    up, down = relayed()
    if step == "fetch":
        error = peer.page.ask("fetch", "https://www.localnet/")["error"]
    else:
        told = peer.page.ask("websocket", "wss://www.localnet/ws", [], [], [])["told"]
        assert told[0]["type"] == "error"
        error = told[0]["message"]
    assert error == UNKNOWN_ISSUER
    up, down = relayed()[0] - up, relayed()[1] - down
    assert up > 200, "a ClientHello"
    assert down > 700, "the flight with the certificate"


# Traffic, and the end


def test_the_browser_client_sends_cover_while_it_is_idle(peer: Peer) -> None:
    began, sent = time.monotonic(), peer.count("entry", "from_clients")
    time.sleep(3)
    rate = (peer.count("entry", "from_clients") - sent) / (time.monotonic() - began)
    assert 20 < rate < 75, "50 packets of the main stream and 5 of loop cover in a second"


def test_the_browser_client_is_silent_with_pacing_and_cover_off(packages: Path) -> None:
    with (
        LocalNet(hostname=HOSTNAME, set_default=False) as net,
        browser_for(net, packages) as browser,
        browser.page() as page,
    ):
        assert set_up(page, net, **UNPACED).get("state") == "ready"
        assert page.ask("fetch", f"{SITE}/bytes/100000", timeout=120).get("length") == 100_000
        time.sleep(2)
        sent = net.node("entry").stats()["from_clients"]
        time.sleep(3)
        assert net.node("entry").stats()["from_clients"] - sent <= 3


def test_the_browser_client_disconnects(peer: Peer) -> None:
    with peer.browser.page() as page:
        assert set_up(page, peer.net).get("state") == "ready"
        assert page.ask("disconnect").get("state") == "shutdown"
        assert "error" in page.ask("fetch", f"{SITE}/")
