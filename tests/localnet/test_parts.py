"""Parts of nodes that need no process: the replay filter, captures, the port book, certificates."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
from pathlib import Path

import pytest

from smolmix_sync.localnet import plan
from smolmix_sync.localnet.ca import CertificateAuthority
from smolmix_sync.localnet.control import ControlClient, ControlError
from smolmix_sync.localnet.links import LinkCapture
from smolmix_sync.localnet.plan import NodeKeys, PortBook
from smolmix_sync.localnet.sphinxnode import ReplayFilter
from smolmix_sync.localnet.tls import Leaf, server_context


def test_replay_filter_knows_what_it_saw() -> None:
    seen = ReplayFilter()
    tags = [os.urandom(32) for _ in range(100)]
    assert not any(seen.seen(tag) for tag in tags)
    assert all(seen.seen(tag) for tag in tags)


def test_replay_filter_forgets_the_oldest_generation_only() -> None:
    seen = ReplayFilter(generation=10)
    tags = [bytes([number]) for number in range(25)]
    assert not any(seen.seen(tag) for tag in tags)
    assert all(seen.seen(tag) for tag in tags[10:])
    assert not seen.seen(tags[0])


def test_capture_has_a_file_per_link(tmp_path: Path) -> None:
    capture = LinkCapture(str(tmp_path))
    capture.write("a-to-b", b"one")
    capture.write("a-to-c", b"two")
    capture.write("a-to-b", b"three")
    assert (tmp_path / "a-to-b.bin").read_bytes() == b"onethree"
    assert (tmp_path / "a-to-c.bin").read_bytes() == b"two"
    LinkCapture(None).write("a-to-b", b"nowhere")
    capture.close()


def test_keys_are_not_in_the_repr() -> None:
    keys = NodeKeys.generate()
    assert repr(keys) == "NodeKeys()"
    assert "PRIVATE" not in repr(CertificateAuthority().issue(["a.localnet"]))


@pytest.mark.interop
def test_a_port_that_a_datagram_socket_has_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def first_is_taken(family: int, address: str, port: int) -> bool:
        asked.append(port)
        return len(asked) > 1

    monkeypatch.setattr(plan, "_free_for_datagrams", first_is_taken)
    with contextlib.closing(PortBook("127.0.0.1", {})) as book:
        assert book.reserve("dns") == asked[1] != asked[0]
    monkeypatch.undo()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        assert not plan._free_for_datagrams(socket.AF_INET, "127.0.0.1", taken.getsockname()[1])


def test_reserved_port_is_free_for_its_node_and_refuses_until_then() -> None:
    book = PortBook("127.0.0.1", {})
    port = book.reserve("mix1.mix")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=2)
    for _ in range(2):  # the node, and the node after a restart
        with socket.create_server(("127.0.0.1", port)), socket.create_connection(("127.0.0.1", port)):
            pass
    book.close()


@pytest.mark.interop
def test_reserved_port_is_not_given_to_anybody_else() -> None:
    book = PortBook("127.0.0.1", {})
    port = book.reserve("mix1.mix")
    with socket.socket() as other, pytest.raises(OSError):
        other.bind(("127.0.0.1", port))
    book.close()


def test_leaf_is_loaded_without_a_file_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    leaf = CertificateAuthority().issue(["a.localnet", "127.0.0.1"])
    assert isinstance(server_context(leaf), ssl.SSLContext)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ssl.SSLError):
        server_context(Leaf(leaf.chain, CertificateAuthority().issue(["b"]).key))


@pytest.mark.interop
def test_control_client_says_when_nobody_is_there(tmp_path: Path) -> None:
    path = str(tmp_path / "control.sock")
    client = ControlClient(path, timeout=2)
    with pytest.raises(FileNotFoundError):
        client.request("stats")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        listener.settimeout(0)
        client = ControlClient(path, timeout=0.1)
        with pytest.raises(TimeoutError):
            client.request("stats")
        accepted, _ = listener.accept()
        accepted.close()
    assert issubclass(ControlError, RuntimeError)
