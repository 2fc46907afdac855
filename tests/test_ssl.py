"""TLS over mix sockets: with the stdlib's contexts and with the drop-in's."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import select
import socket as stdlib
import ssl as stdlib_ssl
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.loopnet import V4, loopnet

from smolmix_sync import ssl
from smolmix_sync.socket import MixSocket

pytestmark = pytest.mark.interop

LIMIT = 10.0


@pytest.fixture(scope="module")
def net() -> Iterator[Any]:
    with loopnet() as port:
        yield port


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Return the files of a self-signed certificate for ``server.example`` and our address, and its key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "server.example")])
    now = datetime.datetime.now(datetime.UTC)
    names: list[x509.GeneralName] = [x509.DNSName("server.example"), x509.IPAddress(ipaddress.ip_address(V4))]
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    folder: Path = tmp_path_factory.mktemp("tls")
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return str(folder / "cert.pem"), str(folder / "key.pem")


@contextlib.contextmanager
def tls_server(
    certificate: tuple[str, str], talk: Callable[[Any], None], context_class: Any = ssl.SSLContext
) -> Iterator[tuple[Any, list[Any]]]:
    """Serve one connection; yields the address and the list of server names asked for."""
    context = context_class(stdlib_ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    asked: list[Any] = []
    context.sni_callback = lambda _sock, name, _context: asked.append(name)
    with MixSocket() as listener:
        listener.bind((V4, 0))
        listener.listen()
        listener.settimeout(LIMIT)

        def serve() -> None:
            sock, _ = listener.accept()
            sock.settimeout(LIMIT)
            with contextlib.suppress(OSError), context.wrap_socket(sock, server_side=True) as wrapped:
                talk(wrapped)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname(), asked
        finally:
            thread.join(LIMIT)


def echo(sock: Any) -> None:
    while data := sock.recv(65536):
        sock.sendall(data.upper())


def client_context(certificate: tuple[str, str], kind: str) -> Any:
    if kind == "drop-in":
        context = ssl.create_default_context(cafile=certificate[0])
        assert context.sslsocket_class is ssl.SSLSocket
        return context
    return stdlib_ssl.create_default_context(cafile=certificate[0])


@pytest.mark.parametrize("kind", ["drop-in", "stdlib"])
def test_tls_checks_the_certificate_and_sends_the_name(
    net: Any, certificate: tuple[str, str], kind: str
) -> None:
    with tls_server(certificate, echo) as (address, asked), MixSocket() as sock:
        sock.settimeout(LIMIT)
        sock.connect(address)
        with client_context(certificate, kind).wrap_socket(sock, server_hostname="server.example") as tls:
            tls.sendall(b"secret")
            assert tls.recv(100) == b"SECRET"
            assert tls.version() in ("TLSv1.2", "TLSv1.3")
            if kind == "drop-in":
                assert tls.getpeername() == address
                assert tls.family == stdlib.AF_INET
    assert asked == ["server.example"]


def test_a_wrong_name_is_refused(net: Any, certificate: tuple[str, str]) -> None:
    with tls_server(certificate, echo) as (address, _), MixSocket() as sock:
        sock.settimeout(LIMIT)
        sock.connect(address)
        with pytest.raises(stdlib_ssl.SSLCertVerificationError):
            ssl.wrap_socket(
                sock,
                server_hostname="other.example",
                context=ssl.create_default_context(cafile=certificate[0]),
            )


def test_wrap_socket_insists_on_a_name() -> None:
    with MixSocket() as sock, pytest.raises(ValueError, match="server_hostname"):
        ssl.wrap_socket(sock)


def test_socket_is_wrapped_first_and_connected_then(net: Any, certificate: tuple[str, str]) -> None:
    with tls_server(certificate, echo) as (address, _):
        context = ssl.create_default_context(cafile=certificate[0])
        with context.wrap_socket(MixSocket(), server_hostname="server.example") as tls:
            tls.settimeout(LIMIT)
            with pytest.raises(OSError):
                tls.getpeername()
            tls.connect(address)
            tls.sendall(b"later")
            assert tls.recv(100) == b"LATER"


def test_handshake_without_blocking(net: Any, certificate: tuple[str, str]) -> None:
    with tls_server(certificate, echo) as (address, _), MixSocket() as sock:
        sock.settimeout(LIMIT)
        sock.connect(address)
        sock.setblocking(False)
        context = ssl.create_default_context(cafile=certificate[0])
        tls = context.wrap_socket(sock, server_hostname="server.example", do_handshake_on_connect=False)
        with tls:
            while True:
                try:
                    tls.do_handshake()
                    break
                except stdlib_ssl.SSLWantReadError:
                    assert select.select([tls], [], [], LIMIT)[0]
                except stdlib_ssl.SSLWantWriteError:
                    assert select.select([], [tls], [], LIMIT)[1]
            tls.settimeout(LIMIT)
            tls.sendall(b"x")
            assert tls.recv(1) == b"X"


def test_large_transfer_and_clean_end(net: Any, certificate: tuple[str, str]) -> None:
    with tls_server(certificate, lambda sock: sock.sendall(bytes(2_000_000))) as (address, _):
        with MixSocket() as sock:
            sock.settimeout(LIMIT)
            sock.connect(address)
            with ssl.wrap_socket(
                sock, server_hostname=V4, context=ssl.create_default_context(cafile=certificate[0])
            ) as tls:
                total = 0
                while data := tls.recv(65536):
                    total += len(data)
                assert total == 2_000_000


def test_unwrap_returns_to_plain_text(net: Any, certificate: tuple[str, str]) -> None:
    def talk(tls: Any) -> None:
        tls.recv(10)
        plain = tls.unwrap()
        with plain:
            plain.sendall(b"plain")

    with tls_server(certificate, talk) as (address, _), MixSocket() as sock:
        sock.settimeout(LIMIT)
        sock.connect(address)
        tls = ssl.create_default_context(cafile=certificate[0]).wrap_socket(sock, server_hostname=V4)
        tls.sendall(b"start")
        with tls.unwrap() as plain:
            assert isinstance(plain, MixSocket)
            assert plain.recv(10) == b"plain"


def test_reset_under_tls_is_no_clean_end(net: Any, certificate: tuple[str, str]) -> None:
    def talk(tls: Any) -> None:
        tls.sendall(b"x")
        tls.setsockopt(stdlib.SOL_SOCKET, stdlib.SO_LINGER, struct.pack("ii", 1, 0))
        tls.recv(1)

    with tls_server(certificate, talk) as (address, _), MixSocket() as sock:
        sock.settimeout(LIMIT)
        sock.connect(address)
        context = ssl.create_default_context(cafile=certificate[0])
        with context.wrap_socket(sock, server_hostname=V4, suppress_ragged_eofs=False) as tls:
            assert tls.recv(1) == b"x"
            tls.sendall(b"y")
            with pytest.raises(OSError):
                while tls.recv(1):
                    pass


def test_server_certificate_is_fetched(net: Any, certificate: tuple[str, str]) -> None:
    with tls_server(certificate, lambda _sock: None) as (address, _):
        assert ssl.get_server_certificate(address, timeout=LIMIT) == Path(certificate[0]).read_text()


def test_names_of_the_stdlib_module_are_here() -> None:
    assert ssl.CERT_REQUIRED is stdlib_ssl.CERT_REQUIRED
    assert ssl.SSLError is stdlib_ssl.SSLError
    assert {name for name in dir(stdlib_ssl) if not name.startswith("_")} <= set(dir(ssl))
    assert issubclass(ssl.SSLSocket, stdlib_ssl.SSLSocket)
    with pytest.raises(AttributeError):
        _ = ssl.no_such_name


@pytest.mark.parametrize("kind", ["drop-in", "stdlib"])
def test_sessions_are_reused(net: Any, certificate: tuple[str, str], kind: str) -> None:
    server = stdlib_ssl.SSLContext(stdlib_ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(*certificate)
    with MixSocket() as listener:
        listener.bind((V4, 0))
        listener.listen()
        listener.settimeout(LIMIT)

        def serve() -> None:
            for _ in range(2):
                sock, _ = listener.accept()
                sock.settimeout(LIMIT)
                with contextlib.suppress(OSError), server.wrap_socket(sock, server_side=True) as wrapped:
                    echo(wrapped)

        thread = threading.Thread(target=serve)
        thread.start()
        context = client_context(certificate, kind)
        session, reused = None, []
        for _ in range(2):
            with MixSocket() as sock:
                sock.settimeout(LIMIT)
                sock.connect(listener.getsockname())
                with context.wrap_socket(sock, server_hostname="server.example", session=session) as wrapped:
                    wrapped.sendall(b"x")
                    assert wrapped.recv(10) == b"X"
                    session = wrapped.session
                    reused.append(wrapped.session_reused)
        thread.join(LIMIT)
    assert reused == [False, True]


def test_names_and_options_of_a_wrapped_socket(net: Any, certificate: tuple[str, str]) -> None:
    with tls_server(certificate, echo) as (address, _), MixSocket() as sock:
        sock.settimeout(LIMIT)
        sock.connect(address)
        local = sock.getsockname()
        with client_context(certificate, "drop-in").wrap_socket(
            sock, server_hostname="server.example"
        ) as wrapped:
            assert (wrapped.getpeername(), wrapped.getsockname()) == (address, local)
            wrapped.setsockopt(stdlib.IPPROTO_TCP, stdlib.TCP_NODELAY, 1)
            assert wrapped.getsockopt(stdlib.IPPROTO_TCP, stdlib.TCP_NODELAY) == 1
            info = wrapped.getsockopt(stdlib.IPPROTO_TCP, stdlib.TCP_INFO, 104)
            assert isinstance(info, bytes)
            assert info[0] == 1
            assert (wrapped.family, wrapped.type) == (stdlib.AF_INET, stdlib.SOCK_STREAM)
            assert sock.fileno() == -1
            assert wrapped.version() in ("TLSv1.2", "TLSv1.3")
