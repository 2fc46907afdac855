"""Parts of the patch that can be looked at without patching this process; the rest is in tests/isolated."""

from __future__ import annotations

import socket
from types import SimpleNamespace
from typing import Any

import pytest

from smolmix_sync import monkey
from smolmix_sync.reactor._originals import CSocket


def test_nothing_is_patched_by_importing_the_module() -> None:
    assert not monkey.is_patched()
    assert socket.socket.connect is CSocket.connect
    assert "undone" in repr(monkey.Patch({}))
    monkey.unpatch_all()


def test_changes_are_put_back_in_reverse_order() -> None:
    owner: Any = SimpleNamespace(old=1)
    changes = monkey._Changes()
    calls: list[str] = []
    changes.set(owner, "old", 2)
    changes.set(owner, "old", 3)
    changes.set(owner, "new", 4)
    changes.on_undo(lambda: calls.append("first"))
    changes.on_undo(lambda: calls.append("second"))
    assert changes.before(owner, "old") == 1
    assert changes.before(owner, "never") is monkey._MISSING
    changes.undo()
    assert vars(owner) == {"old": 1}
    assert calls == ["second", "first"]


def test_what_somebody_else_replaced_meanwhile_stays() -> None:
    owner: Any = SimpleNamespace(name=1)
    changes = monkey._Changes()
    changes.set(owner, "name", 2)
    owner.name = "theirs"
    changes.undo()
    assert owner.name == "theirs"


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("http://127.0.0.1:8080", True),
        ("socks5://localhost:9050", True),
        ("127.0.0.1:3128", True),
        ("http://[::1]:8080", True),
        ("http://proxy.localhost", True),
        ("http://proxy.example.com:8080", False),
        ("http://10.0.0.1:8080", False),
        ("", False),
    ],
)
def test_proxies_on_this_machine_are_found(monkeypatch: pytest.MonkeyPatch, value: str, found: bool) -> None:
    for name in monkey._PROXY_VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("Https_Proxy", value)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert monkey._loopback_proxies() == (["Https_Proxy"] if found else [])


def test_internet_sockets_that_exist_are_counted() -> None:
    before = monkey._kernel_sockets()
    with socket.socket(), socket.socket(socket.AF_INET6, socket.SOCK_DGRAM), socket.socket(socket.AF_UNIX):
        assert monkey._kernel_sockets() == before + 2


def test_patched_c_name_still_knows_c_sockets() -> None:
    with CSocketOwner() as sock:
        assert isinstance(sock, monkey.MixC)
    assert issubclass(socket.socket, monkey.MixC)
    assert not isinstance(5, monkey.MixC)

    class Derived(monkey.MixC):
        pass

    assert not issubclass(socket.socket, Derived)


class CSocketOwner:
    """A C socket as a context manager."""

    def __enter__(self) -> Any:
        self.sock = CSocket(socket.AF_UNIX, socket.SOCK_STREAM)
        return self.sock

    def __exit__(self, *_: object) -> None:
        self.sock.close()


def test_originals_are_found() -> None:
    assert monkey.get_original("_socket", "socket") is CSocket
    assert monkey.get_original("socket", "SocketType") is CSocket
    kernel = monkey.get_original("socket", "socket")
    assert kernel is monkey.get_original("socket", "socket")
    assert issubclass(kernel, socket.socket)
    assert kernel.connect is CSocket.connect
    with kernel(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        assert sock.getsockname() == ""
    assert monkey.get_original("os", "close") is __import__("os").close
    with pytest.raises(AttributeError):
        monkey.get_original("os", "no_such_name")
