from __future__ import annotations

import datetime
import email.utils
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.certificates import Authority
from support.greenlets import in_greenlet

from smolmix_sync.errors import TopologyError, WireError
from smolmix_sync.reactor.loop import ReactorLoop
from smolmix_sync.reactor.nymapi import BaseUrl, NymApi, clock_ahead_untrusted, http_get


class Server:
    """Answers every connection with *answer*, after reading one request."""

    def __init__(self, answer: bytes | Callable[[bytes], bytes], tls: ssl.SSLContext | None = None) -> None:
        self.answer = answer
        self.tls = tls
        self.requests: list[bytes] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Server:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.listener.close()

    def _run(self) -> None:
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        try:
            if self.tls is not None:
                sock = self.tls.wrap_socket(sock, server_side=True)
            request = b""
            while b"\r\n\r\n" not in request:
                data = sock.recv(4096)
                if not data:
                    return
                request += data
            self.requests.append(request)
            sock.sendall(self.answer(request) if callable(self.answer) else self.answer)
        except OSError:
            pass
        finally:
            sock.close()


def ok(body: bytes, *headers: bytes) -> bytes:
    lines = [b"HTTP/1.1 200 OK", b"Content-Type: application/json; charset=utf-8", *headers]
    return b"\r\n".join([*lines, b"Content-Length: %d" % len(body), b"", body])


@pytest.fixture
def loop() -> Iterator[ReactorLoop]:
    reactor = ReactorLoop().start()
    yield reactor
    reactor.stop()


def get(loop: ReactorLoop, url: str, path: str = "v1/x", **kwargs: Any) -> Any:
    kwargs.setdefault("timeout", 5.0)
    return in_greenlet(loop, lambda: http_get(BaseUrl.parse(url), path, **kwargs))


@pytest.mark.interop
def test_request_is_plain_and_answer_is_read(loop: ReactorLoop) -> None:
    with Server(ok(b'{"a":1}')) as server:
        answer = get(loop, f"http://127.0.0.1:{server.port}/api/", "v1/x?page=0")
        assert answer.body == b'{"a":1}'
        assert answer.content_type == "application/json"
        head = server.requests[0].split(b"\r\n")
        assert head[0] == b"GET /api/v1/x?page=0 HTTP/1.1"
        assert b"Host: 127.0.0.1:%d" % server.port in head


@pytest.mark.interop
def test_chunked_answer_is_joined(loop: ReactorLoop) -> None:
    body = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    with Server(body) as server:
        assert get(loop, f"http://127.0.0.1:{server.port}").body == b"abcde"


@pytest.mark.interop
@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 1\r\n\r\nx",
        b"",
    ],
)
def test_answer_that_is_no_complete_200_is_a_wire_error(loop: ReactorLoop, answer: bytes) -> None:
    with Server(answer) as server, pytest.raises(WireError):
        get(loop, f"http://127.0.0.1:{server.port}")


@pytest.mark.interop
def test_answer_larger_than_the_limit_is_refused(loop: ReactorLoop) -> None:
    with Server(ok(bytes(100_000))) as server, pytest.raises(WireError, match="larger"):
        get(loop, f"http://127.0.0.1:{server.port}", max_body=50_000)


@pytest.mark.interop
def test_silent_server_times_out(loop: ReactorLoop) -> None:
    def silent(request: bytes) -> bytes:
        time.sleep(3)
        return b""

    with Server(silent) as server:
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            get(loop, f"http://127.0.0.1:{server.port}", timeout=0.3)
        assert time.monotonic() - began < 2


@pytest.mark.interop
def test_https_checks_authority_and_name(loop: ReactorLoop, tmp_path: Path) -> None:
    authority = Authority()
    ca = authority.write(tmp_path / "ca.pem")
    other = Authority().write(tmp_path / "other.pem")
    with Server(ok(b"{}"), tls=authority.server_context("api.example", tmp_path)) as server:
        url = f"https://api.example:{server.port}/"
        pinned = {"api.example": "127.0.0.1", "evil.example": "127.0.0.1"}
        assert get(loop, url, ca_file=ca, addresses=pinned).body == b"{}"
        with pytest.raises(ssl.SSLCertVerificationError):
            get(loop, url, ca_file=other, addresses=pinned)
        with pytest.raises(ssl.SSLCertVerificationError):
            get(loop, f"https://evil.example:{server.port}/", ca_file=ca, addresses=pinned)
        with pytest.raises(ssl.SSLCertVerificationError):
            get(loop, url, addresses=pinned)


@pytest.mark.parametrize(
    "url",
    [
        "http://192.0.2.1/",
        "http://nym.example/",
        "ftp://127.0.0.1/",
        "https://",
        "https://u:p@h/",
        "https://h/?q",
    ],
)
def test_base_url_must_be_https_or_loopback(url: str) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        BaseUrl.parse(url)


@pytest.mark.parametrize(
    ("url", "authority"),
    [
        ("http://127.0.0.1:8000/api/", "127.0.0.1:8000"),
        ("http://[::1]:8000", "[::1]:8000"),
        ("https://nym.example/api", "nym.example"),
        ("http://localhost", "localhost"),
    ],
)
def test_base_url_knows_its_authority(url: str, authority: str) -> None:
    assert BaseUrl.parse(url).authority == authority


@pytest.mark.interop
def test_urls_are_tried_in_order_and_a_dead_one_goes_last(loop: ReactorLoop) -> None:
    dead = socket.create_server(("127.0.0.1", 0))
    port = dead.getsockname()[1]
    dead.close()
    with Server(ok(b"{}")) as server:
        api = NymApi([f"http://127.0.0.1:{port}/", f"http://127.0.0.1:{server.port}/"], timeout=2)
        answers = in_greenlet(loop, lambda: api.get_all(["a", "b"]))
        assert sorted(answers) == ["a", "b"]
        assert len(server.requests) == 2
        in_greenlet(loop, lambda: api.get_all(["c"]))
        assert str(api._bases[0]).endswith(str(server.port))


@pytest.mark.interop
def test_all_urls_dead_names_each(loop: ReactorLoop) -> None:
    with Server(b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n") as server:
        api = NymApi([f"http://127.0.0.1:{server.port}/", f"http://localhost:{server.port}/"], timeout=2)
        with pytest.raises(TopologyError, match=r"127\.0\.0\.1.*500.*localhost.*500"):
            in_greenlet(loop, lambda: api.get_all(["a"]))


@pytest.mark.interop
def test_all_urls_silent_ends_in_time(loop: ReactorLoop) -> None:
    def silent(request: bytes) -> bytes:
        time.sleep(5)
        return b""

    with Server(silent) as server:
        api = NymApi([f"http://127.0.0.1:{server.port}/"] * 3, timeout=10)
        began = time.monotonic()
        with pytest.raises(TopologyError):
            in_greenlet(loop, lambda: api.get_all(["a"], timeout=0.5))
        assert time.monotonic() - began < 3


DATE, AT = "Sat, 21 Nov 2026 12:00:00 GMT", 1795262400.0


@pytest.mark.parametrize(
    ("sent", "received", "ahead"),
    [
        (AT, AT + 1, 0.0),
        (AT + 0.9, AT + 0.99, 0.0),
        (AT - 5, AT + 5, 0.0),  # a slow answer explains everything
        (AT + 301, AT + 302, 300.0),
        (AT - 301, AT - 300, -300.0),
    ],
)
def test_date_header_tells_the_least_difference_of_the_clocks(
    sent: float, received: float, ahead: float
) -> None:
    assert clock_ahead_untrusted(DATE, sent, received) == ahead


@pytest.mark.parametrize(
    "date", ["", "yesterday", "Sat, 99 Nov 2026 12:00:00 GMT", "\x00", "0", "1 Jan 99999"]
)
def test_date_that_is_none_tells_nothing(date: str) -> None:
    assert clock_ahead_untrusted(date, AT, AT) is None


@pytest.mark.interop
def test_answer_says_how_far_the_clock_is_off(loop: ReactorLoop) -> None:
    date = email.utils.formatdate(time.time() - 500, usegmt=True).encode()
    with Server(ok(b"{}", b"Date: " + date)) as server:
        answer = get(loop, f"http://127.0.0.1:{server.port}/")
        assert answer.ahead is not None
        assert 495 < answer.ahead < 505
    with Server(ok(b"{}")) as server:
        assert get(loop, f"http://127.0.0.1:{server.port}/").ahead is None


@pytest.mark.interop
def test_certificate_that_is_not_valid_now_asks_for_the_clock(loop: ReactorLoop, tmp_path: Path) -> None:
    authority = Authority(datetime.timedelta(days=3))
    ca_file = authority.write(tmp_path / "ca.pem")
    with Server(ok(b"{}"), tls=authority.server_context("127.0.0.1", tmp_path)) as server:
        api = NymApi([f"https://127.0.0.1:{server.port}/"], timeout=5, ca_file=ca_file)
        with pytest.raises(TopologyError, match="is the clock of this machine right"):
            in_greenlet(loop, lambda: api.get_all(["a"]))


@pytest.mark.interop
def test_base_that_talks_nonsense_goes_last(loop: ReactorLoop) -> None:
    with Server(ok(b"{}")) as first, Server(ok(b"{}")) as second:
        api = NymApi([f"http://127.0.0.1:{first.port}/", f"http://127.0.0.1:{second.port}/"])
        assert len(api) == 2
        api.demote()
        in_greenlet(loop, lambda: api.get_all(["a"]))
        assert (len(first.requests), len(second.requests)) == (0, 1)
