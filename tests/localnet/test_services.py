"""The services behind the exit, reached directly: they are ordinary servers."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import http.client
import json
import smtplib
import socket
import ssl
from collections.abc import Iterator
from typing import Any

import dns.message
import dns.query
import dns.rcode
import dns.rdatatype
import pytest
import websocket

from smolmix_sync.localnet.ca import CertificateAuthority, self_signed
from smolmix_sync.localnet.config import LocalNetConfig, build_hosts
from smolmix_sync.localnet.network import certificate_names
from smolmix_sync.localnet.plan import PortBook, reserve_service_ports
from smolmix_sync.localnet.site import pattern

pytestmark = pytest.mark.interop

LOOPBACK = "127.0.0.1"


@pytest.fixture(scope="module")
def services(module_bench: Any) -> Iterator[Any]:
    bench = module_bench
    with contextlib.closing(PortBook(LOOPBACK, {})) as ports:
        authority = CertificateAuthority()
        hosts = build_hosts(LocalNetConfig())
        leaves = {
            "https": authority.issue(certificate_names(hosts)),
            "https-wrong": authority.issue(["other.example"]),
            "https-expired": authority.issue(["expired.localnet"], expired=True),
            "https-selfsigned": self_signed("selfsigned.localnet"),
        }
        node, _ = bench.node(
            "services",
            ports=reserve_service_ports(ports),
            hosts=[host.to_json() for host in hosts],
            leaves={name: dataclasses.asdict(leaf) for name, leaf in leaves.items()},
        )
        node.authority = authority
        yield node


def port(services: Any, name: str) -> int:
    number: int = services.config["ports"][name]
    return number


def fetch(services: Any, method: str, path: str, body: bytes | None = None, **headers: str) -> Any:
    connection = http.client.HTTPConnection(LOOPBACK, port(services, "http"), timeout=5)
    with contextlib.closing(connection):
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        with answer:
            answer.content = answer.read()  # type: ignore[attr-defined]
        return answer


def query(services: Any, name: str, kind: str = "A", **options: Any) -> dns.message.Message:
    message = dns.message.make_query(name, kind, **options)
    return dns.query.udp(message, LOOPBACK, timeout=5, port=port(services, "dns"))


def test_site_echoes_the_headers_of_the_request(services: Any) -> None:
    answer = fetch(services, "GET", "/", **{"X-Mark": "yes", "Host": "echo.localnet"})
    assert answer.status == 200
    assert b"X-Mark: yes" in answer.content
    assert b"echo.localnet" in answer.content


def test_bytes_are_the_documented_pattern(services: Any) -> None:
    answer = fetch(services, "GET", "/bytes/100001")
    assert answer.content == pattern(0, 100_001)
    assert answer.headers["X-Sha256"] == hashlib.sha256(answer.content).hexdigest()
    chunked = fetch(services, "GET", "/chunked/70000")
    assert chunked.headers["Transfer-Encoding"] == "chunked"
    assert chunked.content == pattern(0, 70_000)


def test_pattern_does_not_depend_on_where_it_is_cut() -> None:
    whole = pattern(0, 200_000)
    assert pattern(65_530, 20) == whole[65_530:65_550]
    assert pattern(131_072, 1) == whole[131_072:131_073]


def test_upload_is_answered_with_its_digest(services: Any) -> None:
    body = pattern(7, 300_000)
    answer = fetch(services, "POST", "/upload", body)
    assert json.loads(answer.content) == {"length": 300_000, "sha256": hashlib.sha256(body).hexdigest()}
    assert fetch(services, "POST", "/echo", b"back").content == b"back"


def test_expectation_to_continue_is_met(services: Any) -> None:
    with socket.create_connection((LOOPBACK, port(services, "http")), timeout=5) as sock:
        sock.sendall(b"POST /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
        assert sock.recv(100).startswith(b"HTTP/1.1 100 ")
        sock.sendall(b"ok")
        assert sock.recv(1000).startswith(b"HTTP/1.1 200 ")


def test_redirects_lead_home(services: Any) -> None:
    first = fetch(services, "GET", "/redirect/2")
    assert (first.status, first.headers["Location"]) == (302, "/redirect/1")
    assert fetch(services, "GET", "/redirect/1").headers["Location"] == "/"
    assert fetch(services, "GET", "/redirect-to?url=http://www.localnet/x").headers["Location"] == (
        "http://www.localnet/x"
    )


def test_odd_requests_get_their_status(services: Any) -> None:
    assert fetch(services, "GET", "/status/503").status == 503
    assert fetch(services, "GET", "/nothing").status == 404
    assert fetch(services, "GET", "/bytes/minus").status == 400
    assert fetch(services, "HEAD", "/bytes/10").headers["Content-Length"] == "10"
    with pytest.raises(http.client.IncompleteRead):
        fetch(services, "GET", "/cut/1000/10")


def test_connection_is_kept_for_more_requests(services: Any) -> None:
    connection = http.client.HTTPConnection(LOOPBACK, port(services, "http"), timeout=5)
    for size in (1, 70_000, 0):
        connection.request("GET", f"/bytes/{size}")
        assert len(connection.getresponse().read()) == size
    connection.close()


@pytest.mark.parametrize(
    ("service", "host", "trusted"),
    [
        ("https", "www.localnet", True),
        ("https-wrong", "wrong.localnet", False),
        ("https-expired", "expired.localnet", False),
        ("https-selfsigned", "selfsigned.localnet", False),
    ],
)
def test_only_the_right_certificate_is_trusted(services: Any, service: str, host: str, trusted: bool) -> None:
    context = ssl.create_default_context(cadata=services.authority.pem)
    with socket.create_connection((LOOPBACK, port(services, service)), timeout=5) as sock:
        if trusted:
            with context.wrap_socket(sock, server_hostname=host) as tls:
                tls.sendall(b"GET / HTTP/1.0\r\n\r\n")
                assert tls.recv(12) == b"HTTP/1.1 200"
        else:
            with pytest.raises(ssl.SSLCertVerificationError):
                context.wrap_socket(sock, server_hostname=host)


def test_mail_arrives_as_it_was_sent(services: Any) -> None:
    with smtplib.SMTP(LOOPBACK, port(services, "smtp"), timeout=5) as server:
        refused = server.sendmail(
            "a@localnet", ["b@localnet", "nobody@localnet"], "Subject: x\r\n\r\n.dot\r\n"
        )
    assert list(refused) == ["nobody@localnet"]
    mail = services.request("command", command="mails", arguments={})[-1]
    assert (mail["from"], mail["to"]) == ("a@localnet", ["b@localnet"])
    assert mail["text"] == "Subject: x\r\n\r\n.dot\r\n"


def test_mail_over_starttls_with_a_login(services: Any) -> None:
    context = ssl.create_default_context(cadata=services.authority.pem)
    server = smtplib.SMTP(LOOPBACK, port(services, "smtp"), timeout=5)
    server._host = "mail.localnet"  # what the certificate is checked against
    server.starttls(context=context)
    server.login("user", "any password")
    server.sendmail("a@localnet", "b@localnet", "Subject: secret\r\n\r\n")
    server.quit()
    assert services.request("command", command="mails", arguments={})[-1]["text"].startswith(
        "Subject: secret"
    )


def test_echo_servers_echo(services: Any) -> None:
    with socket.create_connection((LOOPBACK, port(services, "tcp-echo")), timeout=5) as sock:
        sock.sendall(b"hello")
        sock.shutdown(socket.SHUT_WR)
        assert sock.makefile("rb").read() == b"hello"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(5)
        sock.sendto(b"datagram", (LOOPBACK, port(services, "udp-echo")))
        assert sock.recv(100) == b"datagram"


def test_reset_service_resets(services: Any) -> None:
    with socket.create_connection((LOOPBACK, port(services, "tcp-reset")), timeout=5) as sock:
        sock.sendall(b"x")
        with pytest.raises(ConnectionResetError):
            sock.recv(1)


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("echo.localnet", "A", ["198.51.100.10"]),
        ("ECHO.localnet", "AAAA", ["2001:db8:6e79::a"]),
        ("alias.localnet", "A", ["www.localnet.", "198.51.100.11"]),
        ("v6.localnet", "A", []),
        ("10.100.51.198.in-addr.arpa", "PTR", ["echo.localnet."]),
        ("text.localnet", "TXT", ['"a text behind the exit"']),
    ],
)
def test_names_resolve(services: Any, name: str, kind: str, expected: list[str]) -> None:
    answer = query(services, name, kind)
    assert answer.rcode() == dns.rcode.NOERROR
    assert [record.to_text() for rrset in answer.answer for record in rrset] == expected


@pytest.mark.parametrize("name", ["no-such-host.localnet", "example.com", "resolver"])
def test_other_names_do_not_exist(services: Any, name: str) -> None:
    assert query(services, name).rcode() == dns.rcode.NXDOMAIN


def test_long_answer_is_truncated_and_whole_over_tcp(services: Any) -> None:
    message = dns.message.make_query("many.localnet", "A", use_edns=False)
    answer, over_tcp = dns.query.udp_with_fallback(message, LOOPBACK, timeout=5, port=port(services, "dns"))
    assert over_tcp
    assert len(answer.answer[0]) == 60


def test_names_for_trouble_give_trouble(services: Any) -> None:
    assert query(services, "servfail.localnet").rcode() == dns.rcode.SERVFAIL
    message = dns.message.make_query("lost.localnet", dns.rdatatype.A)
    with pytest.raises(dns.exception.Timeout):
        dns.query.udp(message, LOOPBACK, timeout=0.2, port=port(services, "dns"))


def test_nonsense_over_udp_harms_nobody(services: Any) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"\x00", (LOOPBACK, port(services, "dns")))
    assert query(services, "www.localnet").answer


def test_websocket_echoes_text_binary_and_pieces(services: Any) -> None:
    client = websocket.create_connection(
        f"ws://{LOOPBACK}:{port(services, 'http')}/ws", timeout=5, subprotocols=["chat", "echo"]
    )
    with contextlib.closing(client):
        assert client.subprotocol == "echo"
        client.send("text")
        assert client.recv() == "text"
        client.send_binary(pattern(0, 100_000))
        assert client.recv() == pattern(0, 100_000)
        client.ping(b"?")
        opcode, data = client.recv_data(control_frame=True)
        assert (opcode, data) == (websocket.ABNF.OPCODE_PONG, b"?")
    assert fetch(services, "GET", "/ws").status == 426
