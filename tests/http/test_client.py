"""fetch() against servers that do as the test says: pool, retry, redirects, framing, time."""

from __future__ import annotations

import gzip
import io
import time
import zlib
from collections.abc import Callable
from typing import Any

import pytest

from smolmix_sync.errors import LeakBlocked
from smolmix_sync.http import BadResponse, BodyTruncated, HTTPStatusError, RedirectError, fetch
from smolmix_sync.http.pool import pool_of

Serve = Callable[..., tuple[Any, Any]]


def ok(body: bytes = b"fine", *fields: bytes) -> bytes:
    head = [b"HTTP/1.1 200 OK", b"Content-Length: %d" % len(body), *fields]
    return b"\r\n".join(head) + b"\r\n\r\n" + body


def moved(status: int, location: bytes) -> bytes:
    return b"HTTP/1.1 %d Moved\r\nLocation: %s\r\nContent-Length: 0\r\n\r\n" % (status, location)


def answers(*given: bytes, then_wait: bool = True) -> Callable[[Any], Callable[[Any], None]]:
    return lambda server: server.answers(*given, then_wait=then_wait)


def test_the_request_has_the_floor_of_headers_and_ours_win(serve: Serve) -> None:
    server, tunnel = serve(answers(ok(), ok(), ok()))
    fetch("http://a.test/x?y=1", tunnel=tunnel)
    fetch("http://a.test/", headers={"User-Agent": "mine", "accept": None}, tunnel=tunnel)
    fetch("http://a.test/", headers=[("X-A", "1"), ("X-A", "2"), ("Range", "bytes=0-1")], tunnel=tunnel)
    first, second, third = server.requests
    assert first.startswith(b"GET /x?y=1 HTTP/1.1\r\nHost: a.test\r\nUser-Agent: Mozilla/5.0")
    assert b"\r\nAccept-Encoding: gzip, deflate\r\n" in first
    assert b"User-Agent: mine" in second
    assert b"Mozilla" not in second
    assert b"\r\nAccept:" not in second
    assert b"X-A: 1\r\nX-A: 2\r\n" in third
    assert b"Accept-Encoding: identity" in third
    assert server.connections == 1


def test_a_connection_is_kept_and_used_again(serve: Serve) -> None:
    server, tunnel = serve(answers(ok(b"one"), ok(b"two"), ok(b"three")))
    assert [fetch(f"http://a.test/{n}", tunnel=tunnel).body for n in range(3)] == [b"one", b"two", b"three"]
    assert server.connections == 1
    assert pool_of(tunnel).idle == 1
    for callback in tunnel.callbacks:
        from smolmix_sync.tunnel import TunnelState

        callback(TunnelState.SHUTTING_DOWN, "over")
    assert pool_of(tunnel).idle == 0


def test_connections_are_not_shared_between_origins(serve: Serve) -> None:
    server, tunnel = serve(answers(ok(), ok()))
    fetch("http://a.test/", tunnel=tunnel)
    fetch("http://b.test/", tunnel=tunnel)
    fetch("http://a.test:81/", tunnel=tunnel)
    assert server.connections == 3
    assert b"Host: a.test:81\r\n" in server.requests[2]


def test_connection_close_is_obeyed(serve: Serve) -> None:
    server, tunnel = serve(answers(ok(b"x", b"Connection: close")), answers(ok(b"y")))
    assert fetch("http://a.test/", tunnel=tunnel).body == b"x"
    assert fetch("http://a.test/", tunnel=tunnel).body == b"y"
    assert server.connections == 2


def hang_up_at_the_second(server: Any) -> Callable[[Any], None]:
    def handler(sock: Any) -> None:
        server.request(sock)
        sock.sendall(ok())
        server.request(sock)  # and no answer: the request met a closing connection

    return handler


def test_a_stale_connection_costs_an_idempotent_request_one_retry(serve: Serve) -> None:
    server, tunnel = serve(hang_up_at_the_second, answers(ok(b"again")))
    fetch("http://a.test/", tunnel=tunnel)
    assert fetch("http://a.test/", "PUT", body=b"data", tunnel=tunnel).body == b"again"
    assert server.connections == 2
    assert [request[:3] for request in server.requests] == [b"GET", b"PUT", b"PUT"]


def test_a_stale_connection_fails_a_post_and_a_body_that_is_gone(serve: Serve) -> None:
    for method, body in (("POST", b"pay"), ("PUT", iter([b"once"]))):
        server, tunnel = serve(hang_up_at_the_second, answers(ok()))
        fetch("http://a.test/", tunnel=tunnel)
        with pytest.raises(ConnectionResetError):
            fetch("http://a.test/", method, body=body, tunnel=tunnel)
        assert server.connections == 1


def test_a_file_is_sent_again_from_where_it_was(serve: Serve) -> None:
    server, tunnel = serve(hang_up_at_the_second, answers(ok()))
    file = io.BytesIO(b"skipped-content")
    file.seek(8)
    fetch("http://a.test/", tunnel=tunnel)
    fetch("http://a.test/", "PUT", body=file, tunnel=tunnel)
    assert server.requests[1].endswith(b"7\r\ncontent\r\n0\r\n\r\n")
    assert server.requests[2] == server.requests[1]


def test_a_fresh_connection_is_not_retried(serve: Serve) -> None:
    server, tunnel = serve(lambda server: server.request)
    with pytest.raises(ConnectionResetError):
        fetch("http://a.test/", tunnel=tunnel)
    assert server.connections == 1


def test_an_idle_connection_that_was_closed_is_noticed_before_use(serve: Serve) -> None:
    server, tunnel = serve(answers(ok(), then_wait=False), answers(ok(b"new")))
    fetch("http://a.test/", tunnel=tunnel)
    until = time.monotonic() + 5
    while server._threads[0].is_alive() and time.monotonic() < until:
        server._threads[0].join(0.1)
    assert fetch("http://a.test/", "POST", body=b"x", tunnel=tunnel).body == b"new"


def test_requests_beyond_the_limit_wait_for_a_connection(serve: Serve) -> None:
    server, tunnel = serve(answers(ok(), ok()))
    pool_of(tunnel)._per_origin = 1
    held = fetch("http://a.test/", stream=True, tunnel=tunnel)
    with pytest.raises(TimeoutError):
        fetch("http://a.test/", timeout=0.3, tunnel=tunnel)
    assert held.body == b"fine"
    assert fetch("http://a.test/", timeout=5, tunnel=tunnel).ok
    assert server.connections == 1


def test_repeated_headers_are_kept(serve: Serve) -> None:
    _, tunnel = serve(answers(ok(b"", b"Set-Cookie: a=1", b"Set-Cookie: b=2", b"X: y")))
    headers = fetch("http://a.test/", tunnel=tunnel).headers
    assert headers.get_all("set-cookie") == ["a=1", "b=2"]
    assert headers["SET-COOKIE"] == "a=1, b=2"
    assert ("Set-Cookie", "b=2") in headers.pairs
    assert "x" in headers
    assert headers.get("nope") is None


@pytest.mark.parametrize("status", [301, 302, 303])
def test_post_becomes_get_at_303_and_its_kin(serve: Serve, status: int) -> None:
    server, tunnel = serve(answers(moved(status, b"/there"), ok()))
    answer = fetch("http://a.test/here#part", "POST", body="text", tunnel=tunnel)
    assert server.requests[1].startswith(b"GET /there HTTP/1.1")
    assert b"Content-" not in server.requests[1]
    assert answer.url == "http://a.test/there#part"
    assert answer.history == ((status, "http://a.test/here#part"),)
    assert answer.redirected


@pytest.mark.parametrize("status", [307, 308])
def test_method_and_body_survive_307_and_308(serve: Serve, status: int) -> None:
    server, tunnel = serve(answers(moved(status, b"/there"), ok(), moved(status, b"/there")))
    fetch("http://a.test/", "POST", body=b"data", tunnel=tunnel)
    assert server.requests[1].startswith(b"POST /there")
    assert server.requests[1].endswith(b"\r\n\r\ndata")
    with pytest.raises(RedirectError, match="body is gone"):
        fetch("http://a.test/", "POST", body=iter([b"x"]), tunnel=tunnel)


def test_redirects_are_counted(serve: Serve) -> None:
    _, tunnel = serve(answers(*[moved(302, b"/")] * 20))
    with pytest.raises(RedirectError, match="more than 5"):
        fetch("http://a.test/", tunnel=tunnel)
    with pytest.raises(RedirectError, match="more than 2"):
        fetch("http://a.test/", max_redirects=2, tunnel=tunnel)
    assert fetch("http://a.test/", max_redirects=0, tunnel=tunnel).status == 302


def test_credentials_stay_with_their_origin(serve: Serve) -> None:
    server, tunnel = serve(answers(moved(302, b"/same"), moved(302, b"http://b.test/other")), answers(ok()))
    secret = {"Authorization": "Bearer s", "Cookie": "c=1", "X-Other": "stays"}
    fetch("http://a.test/", headers=secret, tunnel=tunnel)
    assert b"Bearer s" in server.requests[1]
    other = server.requests[2]
    assert b"Host: b.test\r\n" in other
    assert b"X-Other: stays" in other
    assert b"Authorization" not in other
    assert b"Cookie" not in other


def test_user_and_password_of_the_url_are_basic_authentication(serve: Serve) -> None:
    server, tunnel = serve(answers(ok()))
    fetch("http://us%40er:pass@a.test/", tunnel=tunnel)
    assert b"Authorization: Basic dXNAZXI6cGFzcw==\r\n" in server.requests[0]


def test_this_machine_is_not_in_the_tunnel(serve: Serve) -> None:
    server, tunnel = serve(answers(moved(302, b"http://127.0.0.1:22/")))
    for url in ("http://127.0.0.1/", "http://[::1]/", "http://0.0.0.0/", "http://a.test/"):
        with pytest.raises(LeakBlocked):
            fetch(url, tunnel=tunnel)
    tunnel.addresses = ["198.51.100.1", "127.0.0.1"]  # a name out there that means us
    with pytest.raises(LeakBlocked):
        fetch("http://rebound.test/", tunnel=tunnel)
    assert server.connections == 1


@pytest.mark.parametrize(
    "url", ["ftp://a.test/", "//a.test/", "http://", "http://a b/", "file:///etc/passwd"]
)
def test_what_is_no_http_url_is_refused(serve: Serve, url: str) -> None:
    _, tunnel = serve(answers(ok()))
    with pytest.raises(ValueError):
        fetch(url, tunnel=tunnel)
    assert tunnel.dialled == []


def test_a_line_break_cannot_be_smuggled_in(serve: Serve) -> None:
    server, tunnel = serve(answers(ok()))
    with pytest.raises(ValueError):
        fetch("http://a.test/", headers={"X": "a\r\nY: b"}, tunnel=tunnel)
    with pytest.raises(ValueError):
        fetch("http://a.test/", "GET / HTTP/1.1\r\nX: y\r\n", tunnel=tunnel)
    fetch("http://a.test/%0d%0a?a b", tunnel=tunnel)
    assert server.requests[-1].startswith(b"GET /%0d%0a?a%20b HTTP/1.1\r\n")


def test_international_names_go_in_their_ascii_form(serve: Serve) -> None:
    server, tunnel = serve(answers(ok()))
    fetch("http://bücher.test/straße", tunnel=tunnel)
    assert tunnel.asked == ["xn--bcher-kva.test"]
    assert server.requests[0].startswith(b"GET /stra%C3%9Fe HTTP/1.1\r\nHost: xn--bcher-kva.test\r\n")


def compressed(coding: bytes, data: bytes) -> bytes:
    return ok(data, b"Content-Encoding: " + coding)


def raw_deflate(data: bytes) -> bytes:
    machine = zlib.compressobj(wbits=-15)
    return machine.compress(data) + machine.flush()


BIG = b"compress me " * 200_000


@pytest.mark.parametrize(
    "answer",
    [
        compressed(b"gzip", gzip.compress(BIG)),
        compressed(b"x-gzip", gzip.compress(BIG[:1200]) + gzip.compress(BIG[1200:]) + b"\0\0"),
        compressed(b"deflate", zlib.compress(BIG)),
        compressed(b"deflate", raw_deflate(BIG)),
        compressed(b"deflate, gzip", gzip.compress(zlib.compress(BIG))),
        ok(BIG),
    ],
    ids=["gzip", "members", "zlib", "raw", "both", "none"],
)
def test_compressed_bodies(serve: Serve, answer: bytes) -> None:
    _, tunnel = serve(answers(answer, answer))
    assert fetch("http://a.test/", tunnel=tunnel).body == BIG
    streamed = fetch("http://a.test/", stream=True, tunnel=tunnel)
    pieces = list(streamed.iter(1000))
    assert b"".join(pieces) == BIG
    assert {len(piece) for piece in pieces[:-1]} == {1000}


def test_compression_that_lies_or_ends_early(serve: Serve) -> None:
    _, tunnel = serve(
        answers(compressed(b"gzip", b"not gzip")),
        answers(compressed(b"gzip", gzip.compress(BIG)[:-20])),
        answers(compressed(b"br", b"unknown")),
    )
    with pytest.raises(BadResponse):
        fetch("http://a.test/", tunnel=tunnel)
    with pytest.raises(BodyTruncated):
        fetch("http://a.test/1", tunnel=tunnel)
    assert fetch("http://b.test/", tunnel=tunnel).body == b"unknown"


def test_a_body_shorter_than_announced_is_an_error(serve: Serve) -> None:
    _, tunnel = serve(
        answers(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort", then_wait=False),
        answers(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\n", then_wait=False),
        answers(b"HTTP/1.1 200 OK\r\n\r\nuntil the end", then_wait=False),
    )
    for _ in range(2):
        with pytest.raises(BodyTruncated):
            fetch("http://a.test/", tunnel=tunnel)
    assert fetch("http://a.test/", tunnel=tunnel).body == b"until the end"


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: nine\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 200_000,
    ],
)
def test_what_is_not_http_is_a_bad_response(serve: Serve, answer: bytes) -> None:
    _, tunnel = serve(answers(answer))
    with pytest.raises((BadResponse, BodyTruncated)):
        fetch("http://a.test/", tunnel=tunnel)
    assert pool_of(tunnel).idle == 0


def test_interim_answers_are_passed_over_and_head_has_no_body(serve: Serve) -> None:
    _, tunnel = serve(
        answers(
            b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + ok(b"final"),
            b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\nContent-Encoding: gzip\r\n\r\n",
            b"HTTP/1.1 204 No Content\r\n\r\n",
        )
    )
    assert fetch("http://a.test/", tunnel=tunnel).body == b"final"
    assert fetch("http://a.test/", "HEAD", tunnel=tunnel).body == b""
    assert fetch("http://a.test/", "DELETE", tunnel=tunnel).status == 204


def test_an_answer_that_comes_before_the_body_is_through_is_heard(serve: Serve) -> None:
    def handler(sock: Any) -> None:
        sock.recv(65536)
        sock.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig")
        until = time.monotonic() + 5
        while time.monotonic() < until and sock.recv(1 << 20):
            pass

    _, tunnel = serve(lambda server: handler)
    answer = fetch("http://a.test/", "POST", body=[b"x" * 65536] * 10, tunnel=tunnel)
    assert (answer.status, answer.body) == (413, b"big")


def drip(server: Any) -> Callable[[Any], None]:
    def handler(sock: Any) -> None:
        server.request(sock)
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        for _ in range(50):
            sock.sendall(b"x")
            time.sleep(0.1)

    return handler


def test_the_timeout_is_for_all_of_it(serve: Serve) -> None:
    _, tunnel = serve(drip)
    began = time.monotonic()
    with pytest.raises(TimeoutError, match=r"after 0\.5 s"):
        fetch("http://a.test/", timeout=0.5, tunnel=tunnel)
    with pytest.raises(TimeoutError):
        list(fetch("http://a.test/", timeout=0.5, stream=True, tunnel=tunnel))
    assert time.monotonic() - began < 3
    tunnel.config.connect_timeout = 0.05  # without a total it is each wait that counts
    with pytest.raises(TimeoutError):
        fetch("http://a.test/", tunnel=tunnel)


def test_a_body_can_be_left_and_its_connection_goes(serve: Serve) -> None:
    server, tunnel = serve(answers(ok(BIG)), answers(ok(b"next")))
    with fetch("http://a.test/", stream=True, tunnel=tunnel) as answer:
        assert next(iter(answer)).startswith(b"compress")
    with pytest.raises(ValueError):
        _ = answer.body
    assert fetch("http://a.test/", tunnel=tunnel).body == b"next"
    assert server.connections == 2


def test_text_json_and_status(serve: Serve) -> None:
    _, tunnel = serve(
        answers(
            ok("grün".encode("latin-1"), b"Content-Type: text/plain; charset=ISO-8859-1"),
            ok(b'{"a": [1]}'),
            ok("ü".encode(), b"Content-Type: text/plain; charset=no-such"),
            b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
        )
    )
    assert fetch("http://a.test/", tunnel=tunnel).text() == "grün"
    assert fetch("http://a.test/", tunnel=tunnel).json() == {"a": [1]}
    assert fetch("http://a.test/", tunnel=tunnel).text() == "ü"
    answer = fetch("http://a.test/", tunnel=tunnel)
    assert (answer.ok, answer.reason, list(answer)) == (False, "Not Found", [])
    with pytest.raises(HTTPStatusError, match="404"):
        answer.raise_for_status()
