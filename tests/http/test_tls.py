"""TLS of our own helpers, against servers of the test's own authority on kernel sockets."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.certificates import Authority

from smolmix_sync.http import BodyTruncated, create_ssl_context, fetch
from smolmix_sync.http.tls import shared_context

Serve = Callable[..., tuple[Any, Any]]
_HEAD = b"HTTP/1.1 200 OK\r\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tls")


@pytest.fixture(scope="module")
def authority(folder: Path) -> Authority:
    authority = Authority()
    authority.write(folder / "ca.pem")
    return authority


def tls(
    context: ssl.SSLContext, *answers: bytes, closing_alert: bool = True
) -> Callable[[Any], Callable[[Any], None]]:
    def make(server: Any) -> Callable[[Any], None]:
        def handler(sock: Any) -> None:
            with contextlib.closing(context.wrap_socket(sock, server_side=True)) as wrapped:
                for answer in answers:
                    server.request(wrapped)
                    wrapped.sendall(answer)
                if closing_alert:
                    wrapped.unwrap()

        return handler

    return make


def test_only_forward_secrecy_with_authenticated_encryption_is_offered() -> None:
    context = create_ssl_context()
    names = [cipher["name"] for cipher in context.get_ciphers()]
    assert names
    for cipher in context.get_ciphers():
        assert cipher["aead"], cipher
        assert cipher["kea"] in ("kx-ecdhe", "kx-any"), cipher
        assert cipher["auth"] in ("auth-rsa", "auth-ecdsa", "auth-any"), cipher
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname


def test_the_shared_context_follows_ssl_cert_file(
    authority: Authority, folder: Path, monkeypatch: pytest.MonkeyPatch, serve: Serve
) -> None:
    server_context = authority.server_context("a.test", folder)
    _, tunnel = serve(tls(server_context, _HEAD + b"Content-Length: 2\r\n\r\nhi"))
    before = shared_context()
    with pytest.raises(ssl.SSLCertVerificationError):
        fetch("https://a.test/", tunnel=tunnel)
    monkeypatch.setenv("SSL_CERT_FILE", str(folder / "ca.pem"))
    assert shared_context() is not before
    assert fetch("https://a.test/", tunnel=tunnel).body == b"hi"
    with pytest.raises(ssl.SSLCertVerificationError):
        fetch("https://b.test/", tunnel=tunnel)


def test_a_server_without_forward_secrecy_is_refused(
    authority: Authority, folder: Path, serve: Serve
) -> None:
    for setting in ("AES128-GCM-SHA256", "ECDHE-ECDSA-AES128-SHA256"):
        server_context = authority.server_context("a.test", folder)
        server_context.maximum_version = ssl.TLSVersion.TLSv1_2
        server_context.set_ciphers(setting)
        _, tunnel = serve(tls(server_context, _HEAD))
        with pytest.raises((ssl.SSLError, ConnectionError)):
            fetch("https://a.test/", tunnel=tunnel, ssl_context=create_ssl_context(folder / "ca.pem"))


def test_a_tls_stream_that_is_cut_is_no_complete_body(
    authority: Authority, folder: Path, serve: Serve
) -> None:
    ours = create_ssl_context(folder / "ca.pem")
    server_context = authority.server_context("a.test", folder)
    _, tunnel = serve(
        tls(server_context, _HEAD + b"\r\nuntil the end"),
        tls(server_context, _HEAD + b"\r\nuntil the", closing_alert=False),
        tls(server_context, _HEAD + b"Content-Length: 4\r\n\r\nwhole"[:-1], closing_alert=False),
        tls(server_context, _HEAD + b"Content-Length: 4\r\n\r\npar", closing_alert=False),
    )

    def get() -> bytes:
        return fetch("https://a.test/", "POST", tunnel=tunnel, ssl_context=ours).body

    assert get() == b"until the end"
    with pytest.raises(BodyTruncated):
        get()
    assert get() == b"whol"
    with pytest.raises(BodyTruncated):
        get()


def test_redirect_from_https_to_http_is_refused(authority: Authority, folder: Path, serve: Serve) -> None:
    from smolmix_sync.http import RedirectError

    moved = b"HTTP/1.1 302 Found\r\nLocation: http://a.test/\r\nContent-Length: 0\r\n\r\n"
    server, tunnel = serve(tls(authority.server_context("a.test", folder), moved))
    with pytest.raises(RedirectError, match="https to http"):
        fetch("https://a.test/", tunnel=tunnel, ssl_context=create_ssl_context(folder / "ca.pem"))
    assert server.connections == 1
