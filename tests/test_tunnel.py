from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.greenlets import wait_until

import smolmix_sync
from smolmix_sync import tunnel as module
from smolmix_sync.config import TunnelConfig
from smolmix_sync.errors import (
    GatewayBandwidthError,
    GatewayError,
    IprError,
    NoExit,
    SetupTimeout,
    TopologyError,
    TunnelClosed,
    TunnelError,
    TunnelFailed,
    TunnelNotReady,
)
from smolmix_sync.localnet import LocalNet
from smolmix_sync.tunnel import IpPair, Progress, Tunnel, TunnelBuilder, TunnelState, parse_address

pytestmark = pytest.mark.interop


@pytest.fixture(scope="module")
def net() -> Iterator[LocalNet]:
    with LocalNet(set_default=False, hostname="gateway.localnet") as net:
        yield net


@pytest.fixture(scope="module")
def tunnel(net: LocalNet) -> Iterator[Tunnel]:
    with Tunnel(**net.client_settings()) as tunnel:
        yield tunnel


@pytest.mark.parametrize(
    ("address", "parsed"),
    [
        (("h", 1), ("h", 1)),
        ("h:80", ("h", 80)),
        ("[2001:db8::1]:443", ("2001:db8::1", 443)),
        ("192.0.2.1:7", ("192.0.2.1", 7)),
    ],
)
def test_address_is_a_pair_or_text(address: tuple[str, int] | str, parsed: tuple[str, int]) -> None:
    assert parse_address(address) == parsed


@pytest.mark.parametrize(
    "address", ["h", "h:", ":80", "2001:db8::1:443", "h:http", ("h", 0), ("h", 65536), "h:70000"]
)
def test_address_without_host_or_port_is_refused(address: tuple[str, int] | str) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        parse_address(address)


def test_ready_tunnel_knows_who_and_where_it_is(net: LocalNet, tunnel: Tunnel) -> None:
    assert tunnel.state is TunnelState.READY
    assert tunnel.gateway == net.gateway_identity
    assert str(tunnel.exit) in net.ipr_addresses
    assert isinstance(tunnel.allocated_ips, IpPair)
    assert tunnel.allocated_ips.ipv4.startswith("10.")
    assert tunnel.mtu == net.config.mtu
    assert str(tunnel.nym_address).endswith(f"@{net.gateway_identity}")
    assert "ready" in repr(tunnel)


def test_stats_count_what_happens(tunnel: Tunnel) -> None:
    before = tunnel.stats()
    with tunnel.tcp_connect("echo.localnet:7", timeout=20) as sock:
        sock.sendall(b"x" * 5000)
        received = b""
        while len(received) < 5000:
            received += sock.recv(5000)
    after = tunnel.stats()
    assert after.state == "READY"
    assert after.uptime > before.uptime > 0
    assert after.packets_sent > before.packets_sent
    assert after.ip_packets_sent > before.ip_packets_sent
    assert after.ip_packets_received > before.ip_packets_received
    assert after.surbs_used > before.surbs_used
    assert after.acks_received > before.acks_received
    assert after.bandwidth is not None
    assert 0 < after.bandwidth < 64 * 1024**3
    assert after.rtt > 0


def test_udp_socket_asks_a_resolver(tunnel: Tunnel) -> None:
    query = bytes.fromhex("abcd01000001000000000000") + b"\x04echo\x08localnet\0\0\1\0\1"
    with tunnel.udp_socket() as sock:
        sock.settimeout(10)
        sock.sendto(query, ("9.9.9.9", 53))
        answer, source = sock.recvfrom(1000)
    assert answer[:2] == b"\xab\xcd"
    assert source == ("9.9.9.9", 53)
    assert socket.inet_aton("198.51.100.10") in answer


def test_udp_socket_on_has_the_port_asked_for(tunnel: Tunnel) -> None:
    with tunnel.udp_socket_on(5555) as sock:
        assert sock.getsockname()[1] == 5555
        sock.settimeout(10)
        sock.sendto(b"ping", ("198.51.100.10", 7))
        assert sock.recvfrom(100)[0] == b"ping"


def test_listener_has_the_port_asked_for(tunnel: Tunnel) -> None:
    with tunnel.listen(8080) as sock:
        assert sock.getsockname()[1] == 8080


def test_names_resolve_through_the_tunnel(tunnel: Tunnel) -> None:
    assert "198.51.100.10" in tunnel.resolve("echo.localnet")
    assert tunnel.resolve("echo.localnet", socket.AF_INET) == ["198.51.100.10"]
    infos = tunnel.getaddrinfo("echo.localnet", 80, socket.AF_INET, socket.SOCK_STREAM)
    assert infos[0][4] == ("198.51.100.10", 80)
    with pytest.raises(socket.gaierror):
        tunnel.resolve("no-such-name.localnet")


def test_ping_returns_the_round_trip(tunnel: Tunnel) -> None:
    assert 0.001 < tunnel.ping("echo.localnet") < 10


def test_ping_of_a_silent_host_times_out(tunnel: Tunnel) -> None:
    with pytest.raises(TimeoutError):
        tunnel.ping("silent.localnet", timeout=1.0)


def test_destination_the_exit_forbids_is_a_permission_error_soon(tunnel: Tunnel) -> None:
    began = time.monotonic()
    with pytest.raises(PermissionError) as caught:
        tunnel.tcp_connect("policy.localnet:80", timeout=20)
    assert caught.value.errno == errno.EACCES
    assert time.monotonic() - began < 10


def test_ipv6_works_where_the_exit_has_it(tunnel: Tunnel) -> None:
    wait_until(lambda: tunnel.device.ipv6, 10)
    with tunnel.tcp_connect("[2001:db8:6e79::a]:7", timeout=20) as sock:
        sock.sendall(b"six")
        assert sock.recv(3) == b"six"


def test_progress_and_state_are_told_outside_the_reactor(net: LocalNet) -> None:
    stages: list[str] = []
    states: list[TunnelState] = []
    threads: set[int] = set()

    def progress(step: Progress) -> None:
        stages.append(step.stage)
        threads.add(threading.get_ident())

    def state(new: TunnelState, reason: str) -> None:
        states.append(new)
        threads.add(threading.get_ident())

    with Tunnel(on_progress=progress, on_state=state, **net.client_settings()) as tunnel:
        wait_until(lambda: states)
        reactor = tunnel.loop.call(threading.get_ident)
    wait_until(lambda: states[-1] is TunnelState.SHUTDOWN)
    assert list(dict.fromkeys(stages)) == ["topology", "gateway", "exit", "probe", "ready"]
    assert states == [TunnelState.READY, TunnelState.SHUTTING_DOWN, TunnelState.SHUTDOWN]
    assert reactor not in threads
    assert threading.get_ident() not in threads


def test_builder_collects_settings(net: LocalNet) -> None:
    builder = Tunnel.builder().config(TunnelConfig.from_dict(net.client_settings()))
    assert isinstance(builder, TunnelBuilder)
    with builder.ipr_address(net.ipr_address).profile("no-cover").build() as tunnel:
        assert tunnel.config.profile == "no-cover"
        assert str(tunnel.exit) == net.ipr_address
    with pytest.raises(AttributeError):
        Tunnel.builder().no_such_setting  # noqa: B018


def test_seeds_constructors(net: LocalNet) -> None:
    with Tunnel.new(**net.client_settings()) as tunnel:
        assert tunnel.state is TunnelState.READY
    with Tunnel.new_with_ipr(net.ipr_address, **net.client_settings()) as tunnel:
        assert str(tunnel.exit) == net.ipr_address
    with Tunnel.from_dict({**net.client_settings(), "disableCoverTraffic": True}) as tunnel:
        assert not tunnel.config.traffic.cover


def test_environment_and_file_make_a_tunnel(
    net: LocalNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in net.environment().items():
        if name.startswith("SMOLMIX"):
            monkeypatch.setenv(name, value)
    with Tunnel.from_env() as tunnel:
        assert tunnel.gateway == net.gateway_identity
    path = tmp_path / "tunnel.toml"
    path.write_text('profile = "no-cover"\n')
    with Tunnel.from_file(path) as tunnel:
        assert tunnel.config.profile == "no-cover"


def test_wss_to_the_gateway_checks_its_name(net: LocalNet) -> None:
    settings = net.client_settings()
    with Tunnel(**settings, force_tls=True, bootstrap_addresses={"gateway.localnet": "127.0.0.1"}) as tunnel:
        assert tunnel.state is TunnelState.READY
        with tunnel.tcp_connect("echo.localnet:7", timeout=20) as sock:
            sock.sendall(b"over wss")
            assert sock.recv(100) == b"over wss"


@pytest.mark.slow
def test_reconnect_keeps_connections_and_identity(net: LocalNet) -> None:
    with Tunnel(**net.client_settings()) as tunnel:
        address, ips = tunnel.nym_address, tunnel.allocated_ips
        with tunnel.tcp_connect("echo.localnet:7", timeout=20) as sock:
            sock.sendall(b"one")
            assert sock.recv(3) == b"one"
            tunnel.reconnect()
            wait_until(lambda: tunnel.stats().reconnects == 1, 20)
            tunnel.wait_ready(20)
            sock.settimeout(20)
            sock.sendall(b"two")
            assert sock.recv(3) == b"two"
        assert (tunnel.nym_address, tunnel.allocated_ips) == (address, ips)


@pytest.mark.slow
def test_new_identity_is_somebody_else(net: LocalNet) -> None:
    with Tunnel(**net.client_settings()) as tunnel:
        address = tunnel.nym_address
        sock = tunnel.tcp_connect("echo.localnet:7", timeout=20)
        tunnel.new_identity()
        assert tunnel.nym_address != address
        sock.settimeout(5)
        with pytest.raises(OSError) as caught:
            sock.sendall(b"x")
            sock.recv(1)
        assert caught.value.errno in (errno.ENETDOWN, errno.ECONNRESET, errno.EPIPE)
        sock.close()
        with tunnel.tcp_connect("echo.localnet:7", timeout=20) as again:
            again.sendall(b"new")
            assert again.recv(3) == b"new"


def test_tunnel_that_is_shut_down_says_so(net: LocalNet) -> None:
    tunnel = Tunnel(**net.client_settings())
    sock = tunnel.tcp_connect("echo.localnet:7", timeout=20)
    tunnel.shutdown()
    tunnel.shutdown()
    assert tunnel.state is TunnelState.SHUTDOWN
    with pytest.raises(OSError) as caught:
        sock.settimeout(5)
        sock.sendall(b"x")
        sock.recv(1)
    assert caught.value.errno in (errno.ENETDOWN, errno.ECONNRESET, errno.EPIPE)
    sock.close()
    with pytest.raises(TunnelClosed):
        tunnel.wait_ready(1)
    with pytest.raises(OSError) as closed:
        tunnel.tcp_connect("198.51.100.10:7", timeout=2)
    assert closed.value.errno == errno.ENETDOWN


@pytest.mark.slow
def test_shutdown_brings_home_what_closed_sockets_sent() -> None:
    received: list[int] = []
    with socket.create_server(("127.0.0.1", 0)) as sink:
        sink.settimeout(20)

        def read() -> None:
            sock, _ = sink.accept()
            with sock:
                count = 0
                while data := sock.recv(65536):
                    count += len(data)
            received.append(count)

        reader = threading.Thread(target=read)
        reader.start()
        allow = {"sink.localnet:9000": sink.getsockname()[1]}
        with LocalNet(set_default=False, allow=allow) as net:
            tunnel = Tunnel(**net.client_settings())
            sock = tunnel.tcp_connect("sink.localnet:9000", timeout=20)
            sock.sendall(bytes(50_000))
            sock.close()
            tunnel.shutdown(20)
            reader.join(10)
    assert received == [50_000]


def test_setup_failures_name_their_stage(net: LocalNet) -> None:
    settings = net.client_settings()
    free = socket.create_server(("127.0.0.1", 0))
    port = free.getsockname()[1]
    free.close()
    with pytest.raises(TopologyError, match="nym-api"):
        Tunnel(**{**settings, "nym_api": (f"http://127.0.0.1:{port}/",)})
    with pytest.raises(TopologyError, match="plain http"):
        Tunnel(**{**settings, "nym_api": ("http://192.0.2.1/",)})
    with pytest.raises(GatewayError, match="not in the directory"):
        Tunnel(**{**settings, "preferred_gateway": "28QepVjcee9dL8oGpW8HhU7GsGao85mDVz2rya2mUj6i"})
    with pytest.raises(GatewayError):
        Tunnel(**{**settings, "preferred_gateway": "not base58 0OIl"})
    with pytest.raises(IprError, match="ipr_address"):
        Tunnel(**settings, ipr_address="nobody")
    stranger = str(net.ipr_address).split("@")[0] + "@28QepVjcee9dL8oGpW8HhU7GsGao85mDVz2rya2mUj6i"
    with pytest.raises(NoExit):
        Tunnel(**settings, ipr_address=stranger)


@pytest.mark.slow
def test_exit_that_does_not_answer_times_out_by_name(net: LocalNet) -> None:
    net.node("exit").set(silent=True)
    try:
        began = time.monotonic()
        with pytest.raises(SetupTimeout, match="exit"):
            Tunnel(**net.client_settings(), ipr_timeout=2.0)
        assert time.monotonic() - began < 10
        with pytest.raises(SetupTimeout, match="exit"):
            Tunnel(**net.client_settings(), connect_timeout=2.0, ipr_address=net.ipr_address)
    finally:
        net.node("exit").set(silent=False)


@pytest.mark.slow
def test_gateway_that_wants_tickets_is_reported(net: LocalNet) -> None:
    net.node("entry").set(enforce_tickets=True)
    try:
        with pytest.raises(GatewayBandwidthError):
            Tunnel(**net.client_settings())
    finally:
        net.node("entry").set(enforce_tickets=False)


def test_background_start_does_not_block_and_wait_ready_does(net: LocalNet) -> None:
    began = time.monotonic()
    tunnel = Tunnel(wait=False, **net.client_settings())
    assert time.monotonic() - began < 0.5
    with tunnel:
        with pytest.raises(TunnelNotReady):
            tunnel.wait_ready(0)
        assert tunnel.state is TunnelState.CONNECTING
        with pytest.raises(TunnelNotReady):
            tunnel.allocated_ips  # noqa: B018
        tunnel.wait_ready(20)
        assert tunnel.state is TunnelState.READY


def test_failed_tunnel_can_start_over(net: LocalNet) -> None:
    settings = {**net.client_settings(), "preferred_gateway": "28QepVjcee9dL8oGpW8HhU7GsGao85mDVz2rya2mUj6i"}
    tunnel = Tunnel(wait=False, **settings)
    with tunnel:
        wait_until(lambda: tunnel.state is TunnelState.FAILED, 10)
        with pytest.raises(GatewayError):
            tunnel.wait_ready(1)
        assert isinstance(tunnel.error, GatewayError)
        tunnel.reconnect()
        assert tunnel.state in (TunnelState.CONNECTING, TunnelState.FAILED)


# --- the tunnel of the process ---


@pytest.fixture
def default_net(net: LocalNet) -> Iterator[LocalNet]:
    before = smolmix_sync.config.set_process_overrides(net.client_settings())
    yield net
    module.disconnect(1.0)
    smolmix_sync.config.set_process_overrides(before)


def test_process_has_one_tunnel(default_net: LocalNet) -> None:
    assert smolmix_sync.get_tunnel() is None
    assert smolmix_sync.get_tunnel_state() is None
    first = smolmix_sync.connect()
    assert smolmix_sync.connect() is first
    assert smolmix_sync.setup_mix_tunnel() is first
    assert smolmix_sync.get_tunnel() is first
    assert smolmix_sync.get_tunnel_state() is TunnelState.READY
    assert module.current() is first
    assert "198.51.100.10" in smolmix_sync.resolve("echo.localnet")
    assert "198.51.100.10" in smolmix_sync.mix_dns("echo.localnet")
    with pytest.raises(ValueError, match="other settings"):
        smolmix_sync.connect(profile="no-cover")
    smolmix_sync.disconnect()
    assert smolmix_sync.get_tunnel() is None
    assert first.state is TunnelState.SHUTDOWN


def test_first_need_starts_the_tunnel_in_the_background(default_net: LocalNet) -> None:
    tunnel = module.current()
    assert tunnel.state is TunnelState.CONNECTING
    assert module.current() is tunnel
    tunnel.wait_ready(20)


def test_failed_default_tunnel_is_replaced_after_a_while(
    default_net: LocalNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = {**default_net.client_settings(), "ipr_address": "nobody"}
    smolmix_sync.config.set_process_overrides(bad)
    with pytest.raises(IprError):
        smolmix_sync.connect()
    failed = module.get_tunnel()
    assert failed is not None
    assert failed.state is TunnelState.FAILED
    assert module.current() is failed
    monkeypatch.setattr(module, "_RETRY_AFTER", 0.0)
    assert module.current() is not failed


FORKED = """
    import os, sys
    import smolmix_sync
    from smolmix_sync import tunnel as module
    smolmix_sync.connect()
    parent = module.get_tunnel()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            assert parent.state.name == "SHUTDOWN"
            try:
                parent.stats()
            except OSError as error:
                assert error.errno == 100, error
            try:
                mine = module.current()
            except OSError as error:
                assert os.environ["SMOLMIX_FORK"] == "deny" and error.errno == 100, error
            else:
                assert os.environ["SMOLMIX_FORK"] == "own"
                assert mine is not parent
                mine.wait_ready()
                assert mine.nym_address != parent._session.mix.core.address
                assert mine.resolve("echo.localnet")
                mine.shutdown()
            code = 0
        except BaseException as error:
            print(type(error), error, file=sys.stderr)
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert parent.state.name == "READY", parent.reason
    assert parent.resolve("www.localnet")
    assert parent.stats().reconnects == 0
    smolmix_sync.disconnect()
    print("done")
"""


@pytest.mark.slow
@pytest.mark.parametrize("fork", ["own", "deny"])
def test_child_has_its_own_tunnel_or_none_and_the_parent_keeps_its_own(net: LocalNet, fork: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(FORKED)],
        env={**os.environ, **net.environment(), "SMOLMIX_FORK": fork},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == "done\n", done.stderr


EXIT = """
    import smolmix_sync
    tunnel = smolmix_sync.connect()
    sock = tunnel.tcp_connect("echo.localnet:9", timeout=20)
    sock.sendall(bytes(30000))
    sock.close()
    print("end of the program")
"""


@pytest.mark.slow
def test_process_ends_by_itself_with_a_tunnel_up(net: LocalNet) -> None:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(EXIT)],
        env={**os.environ, **net.environment()},
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "end of the program\n"
    assert done.stderr == ""


def test_errors_are_oserrors_with_enetdown() -> None:
    for kind in (TunnelNotReady, TunnelFailed, TunnelClosed):
        assert issubclass(kind, TunnelError)
        assert kind("x").errno == errno.ENETDOWN
