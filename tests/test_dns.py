"""Names through a device: a DNS server on the other side of a loopback stack."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import socket as stdlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest
from support.loopnet import V4, loopnet

from smolmix_sync import dns as mix_dns
from smolmix_sync.reactor import _originals, provider
from smolmix_sync.reactor.resolver import ResolverConfig
from smolmix_sync.socket import MixSocket, create_connection

pytestmark = pytest.mark.interop

LIMIT = 10.0

ZONE = {
    ("www.example.com", "A"): ["203.0.113.5", "203.0.113.6"],
    ("www.example.com", "AAAA"): ["2001:db8:1::5"],
    ("alias.example.com", "CNAME"): ["www.example.com."],
    ("six.example.com", "AAAA"): ["2001:db8:1::6"],
    ("evil.example.com", "A"): ["127.0.0.1"],
    ("big.example.com", "A"): [f"203.0.113.{n}" for n in range(1, 60)],
    ("5.113.0.203.in-addr.arpa", "PTR"): ["www.example.com."],
    ("server.example.com", "A"): [V4],
}


class NameServer:
    """Answers from ZONE over UDP and TCP; truncates ``big`` over UDP and keeps silent when told to."""

    def __init__(self) -> None:
        self.asked: Counter[tuple[str, str, str]] = Counter()
        self.silent = False
        self.fail = False
        self.gate = threading.Event()
        self.gate.set()
        self._stop = False
        self._udp = MixSocket(stdlib.AF_INET, stdlib.SOCK_DGRAM)
        self._udp.bind((V4, 53))
        self._tcp = MixSocket()
        self._tcp.bind((V4, 53))
        self._tcp.listen()
        self._threads = [threading.Thread(target=one) for one in (self._serve_udp, self._serve_tcp)]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        self._stop = True
        self.gate.set()
        for thread in self._threads:
            thread.join(LIMIT)
        self._udp.close()
        self._tcp.close()

    def answer(self, query: bytes, way: str) -> bytes:
        message = dns.message.from_wire(query)
        question = message.question[0]
        name = question.name.to_text(omit_final_dot=True)
        kind = dns.rdatatype.to_text(question.rdtype)
        self.asked[(name, kind, way)] += 1
        response = dns.message.make_response(message)
        if self.fail:
            response.set_rcode(dns.rcode.SERVFAIL)
            return bytes(response.to_wire())
        alias = ZONE.get((name, "CNAME"))
        if alias:
            response.answer.append(dns.rrset.from_text(name + ".", 60, "IN", "CNAME", *alias))
            name = alias[0].rstrip(".")
        records = ZONE.get((name, kind), [])
        if name.startswith("big.") and way == "udp":
            response.flags |= dns.flags.TC
        elif records:
            response.answer.append(dns.rrset.from_text(name + ".", 60, "IN", kind, *records))
        elif not any(known == name for known, _ in ZONE):
            response.set_rcode(dns.rcode.NXDOMAIN)
        return bytes(response.to_wire(want_shuffle=False))

    def _serve_udp(self) -> None:
        self._udp.settimeout(0.05)
        while not self._stop:
            with contextlib.suppress(TimeoutError):
                query, source = self._udp.recvfrom(2000)
                self.gate.wait(LIMIT)
                answer = self.answer(query, "udp")
                if not self.silent:
                    self._udp.sendto(answer, source)

    def _serve_tcp(self) -> None:
        self._tcp.settimeout(0.05)
        while not self._stop:
            with contextlib.suppress(TimeoutError):
                sock, _ = self._tcp.accept()
                with sock:
                    sock.settimeout(LIMIT)
                    size = int.from_bytes(sock.recv(2, stdlib.MSG_WAITALL), "big")
                    answer = self.answer(sock.recv(size), "tcp")
                    sock.sendall(len(answer).to_bytes(2, "big") + answer[:5])
                    sock.sendall(answer[5:])


@pytest.fixture(scope="module")
def server() -> Iterator[NameServer]:
    with loopnet(resolver=ResolverConfig(primary=V4, fallback="203.0.113.99", timeout=1.0)):
        made = NameServer()
        try:
            yield made
        finally:
            made.close()


@pytest.fixture(autouse=True)
def fresh(server: NameServer) -> Iterator[None]:
    resolver = provider.current().device.resolver
    resolver.clear_cache()
    server.asked.clear()
    yield
    server.silent = server.fail = False
    server.gate.set()
    provider.current().device.ipv6 = True


def failure_of(action: Callable[[], Any]) -> int:
    with pytest.raises(stdlib.gaierror) as caught:
        action()
    assert isinstance(caught.value, mix_dns.NameResolutionError)
    assert caught.value.errno is not None
    return caught.value.errno


def test_families_take_turns_and_ipv4_is_the_first() -> None:
    assert mix_dns.resolve("www.example.com") == ["203.0.113.5", "2001:db8:1::5", "203.0.113.6"]
    assert mix_dns.resolve("WWW.Example.Com.", stdlib.AF_INET6) == ["2001:db8:1::5"]


def test_ipv6_is_not_asked_for_when_the_exit_has_none(server: NameServer) -> None:
    provider.current().device.ipv6 = False
    assert mix_dns.resolve("www.example.com") == ["203.0.113.5", "203.0.113.6"]
    assert server.asked == {("www.example.com", "A", "udp"): 1}
    assert mix_dns.resolve("www.example.com", stdlib.AF_INET6) == ["2001:db8:1::5"]


def test_second_lookup_is_answered_from_the_cache(server: NameServer) -> None:
    for _ in range(3):
        mix_dns.resolve("www.example.com", stdlib.AF_INET)
        assert failure_of(lambda: mix_dns.resolve("missing.example.org", stdlib.AF_INET)) == stdlib.EAI_NONAME
    assert set(server.asked.values()) == {1}


def test_lookups_of_one_name_share_a_question(server: NameServer) -> None:
    server.gate.clear()
    with ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(mix_dns.resolve, "www.example.com", stdlib.AF_INET) for _ in range(8)]
        time.sleep(0.1)
        server.gate.set()
        assert {tuple(job.result(LIMIT)) for job in jobs} == {("203.0.113.5", "203.0.113.6")}
    assert server.asked == {("www.example.com", "A", "udp"): 1}


def test_truncated_answer_is_fetched_by_tcp(server: NameServer) -> None:
    assert len(mix_dns.resolve("big.example.com", stdlib.AF_INET)) == 59
    assert server.asked == {("big.example.com", "A", "udp"): 1, ("big.example.com", "A", "tcp"): 1}


def test_missing_names_and_types() -> None:
    for name in ("missing.example.org", "printer.local", "intranet", "a..b"):
        assert failure_of(lambda n=name: mix_dns.resolve(n)) == stdlib.EAI_NONAME
    assert failure_of(lambda: mix_dns.resolve("six.example.com", stdlib.AF_INET)) == stdlib.EAI_NONAME
    assert mix_dns.resolve("six.example.com") == ["2001:db8:1::6"]


def test_failing_servers_mean_try_again(server: NameServer) -> None:
    server.fail = True  # and the fallback does not exist
    assert failure_of(lambda: mix_dns.resolve("www.example.com")) == stdlib.EAI_AGAIN


def test_silent_server_costs_no_more_than_the_timeout(server: NameServer) -> None:
    server.silent = True
    resolver = provider.current().device.resolver
    began = time.monotonic()
    assert failure_of(lambda: resolver.lookup("www.example.com", timeout=0.2)) == stdlib.EAI_AGAIN
    assert time.monotonic() - began < 1.0


def test_answer_that_names_this_machine_is_refused() -> None:
    assert failure_of(lambda: mix_dns.resolve("evil.example.com")) == stdlib.EAI_NONAME


def test_name_resolution_fails_while_the_tunnel_is_down(server: NameServer) -> None:
    with loopnet(up=False, connect_timeout=0.05) as port:
        assert failure_of(lambda: mix_dns.resolve("www.example.com", tunnel=port)) == stdlib.EAI_AGAIN
        port.device.loop.call(port.device.close)
        assert failure_of(lambda: mix_dns.resolve("www.example.com", tunnel=port)) == stdlib.EAI_AGAIN


def test_lookup_under_way_ends_when_the_tunnel_goes_down() -> None:
    with (
        loopnet(resolver=ResolverConfig(primary="203.0.113.1", fallback="")) as port,
        ThreadPoolExecutor(1) as pool,
    ):
        job = pool.submit(mix_dns.resolve, "www.example.com", tunnel=port)
        time.sleep(0.05)
        port.device.loop.call(port.device.set_down)
        assert failure_of(lambda: job.result(LIMIT)) == stdlib.EAI_AGAIN


# --- the stdlib's functions -------------------------------------------------------------------


def test_getaddrinfo_gives_what_the_stdlib_gives_for_numeric_hosts() -> None:
    for arguments in (
        ("203.0.113.5", 80),
        ("203.0.113.5", "http", 0, stdlib.SOCK_STREAM),
        ("2001:db8::1", 443, stdlib.AF_INET6),
        (None, 80, 0, stdlib.SOCK_DGRAM, 0, stdlib.AI_PASSIVE),
        ("127.1", 1, 0, 0, 0, stdlib.AI_NUMERICHOST),
        (b"203.0.113.5", None),
    ):
        assert mix_dns.getaddrinfo(*arguments) == stdlib.getaddrinfo(*arguments)


def test_getaddrinfo_of_a_name() -> None:
    found = mix_dns.getaddrinfo("www.example.com", "https", type=stdlib.SOCK_STREAM)
    assert found == [
        (stdlib.AF_INET, stdlib.SOCK_STREAM, 6, "", ("203.0.113.5", 443)),
        (stdlib.AF_INET6, stdlib.SOCK_STREAM, 6, "", ("2001:db8:1::5", 443, 0, 0)),
        (stdlib.AF_INET, stdlib.SOCK_STREAM, 6, "", ("203.0.113.6", 443)),
    ]
    assert len(mix_dns.getaddrinfo("www.example.com", 1)) == 9
    canonical = mix_dns.getaddrinfo("alias.example.com", 1, stdlib.AF_INET, 1, 0, stdlib.AI_CANONNAME)
    assert [entry[3] for entry in canonical] == ["www.example.com", ""]


def test_getaddrinfo_maps_ipv4_when_asked_to() -> None:
    found = mix_dns.getaddrinfo("big.example.com", 1, stdlib.AF_INET6, 1, 0, stdlib.AI_V4MAPPED)
    assert found[0][4][0] == "::ffff:203.0.113.1"
    flags = stdlib.AI_V4MAPPED | stdlib.AI_ALL
    every = [entry[4][0] for entry in mix_dns.getaddrinfo("www.example.com", 1, stdlib.AF_INET6, 1, 0, flags)]
    assert every == ["2001:db8:1::5", "::ffff:203.0.113.5", "::ffff:203.0.113.6"]
    without = mix_dns.getaddrinfo("www.example.com", 1, stdlib.AF_INET6, 1, 0, stdlib.AI_V4MAPPED)
    assert [entry[4][0] for entry in without] == ["2001:db8:1::5"]


def test_getaddrinfo_refuses_what_the_stdlib_refuses(server: NameServer) -> None:
    for arguments in (
        ("www.example.com", "no-such-service"),
        ("www.example.com", 1, 999),
        ("name", 1, 0, 0, 0, 4),
    ):
        with pytest.raises(stdlib.gaierror):
            mix_dns.getaddrinfo(*arguments)
    with pytest.raises(TypeError):
        mix_dns.getaddrinfo(5, 1)
    assert not server.asked


def test_gethostby_family() -> None:
    assert mix_dns.gethostbyname("www.example.com") == "203.0.113.5"
    assert mix_dns.gethostbyname("") == "0.0.0.0"
    assert mix_dns.gethostbyname("<broadcast>") == "255.255.255.255"
    addresses = ["203.0.113.5", "203.0.113.6"]
    assert mix_dns.gethostbyname_ex("alias.example.com") == (
        "www.example.com",
        ["alias.example.com"],
        addresses,
    )
    assert mix_dns.gethostbyname_ex("www.example.com") == ("www.example.com", [], addresses)
    assert mix_dns.gethostbyname_ex("") == ("0.0.0.0", [], ["0.0.0.0"])
    assert mix_dns.gethostbyaddr("203.0.113.5") == ("www.example.com", [], ["203.0.113.5"])
    assert mix_dns.gethostbyaddr("www.example.com") == ("www.example.com", [], ["203.0.113.5"])
    assert mix_dns.gethostbyaddr("::1")[0] == "localhost"
    with pytest.raises(stdlib.herror):
        mix_dns.gethostbyaddr("203.0.113.6")


def test_getnameinfo_falls_back_to_the_number() -> None:
    assert mix_dns.getnameinfo(("203.0.113.5", 80), 0) == ("www.example.com", "http")
    assert mix_dns.getnameinfo(("203.0.113.6", 80), stdlib.NI_NUMERICSERV) == ("203.0.113.6", "80")
    assert mix_dns.getnameinfo(("203.0.113.5", 80), stdlib.NI_NUMERICHOST) == ("203.0.113.5", "http")
    assert (
        failure_of(lambda: mix_dns.getnameinfo(("203.0.113.6", 80), stdlib.NI_NAMEREQD)) == stdlib.EAI_NONAME
    )


def test_private_addresses_are_not_asked_about(server: NameServer) -> None:
    with pytest.raises(stdlib.herror):
        mix_dns.gethostbyaddr("192.168.1.1")
    assert not server.asked


def test_full_name_of_this_machine_is_not_asked_for(server: NameServer) -> None:
    assert mix_dns.getfqdn() == mix_dns.getfqdn("0.0.0.0") == stdlib.gethostname()
    assert not server.asked
    assert mix_dns.getfqdn("203.0.113.5") == "www.example.com"
    assert mix_dns.getfqdn("missing.example.org") == "missing.example.org"


def test_local_names_need_no_tunnel() -> None:
    before = provider.install(None)
    try:
        assert mix_dns.gethostbyname("localhost") == "127.0.0.1"
        assert mix_dns.getfqdn("127.0.0.1") == "localhost"
        with pytest.raises(stdlib.gaierror):
            mix_dns.getaddrinfo("printer.local", 1)
    finally:
        provider.install(before)


def test_sockets_connect_by_name() -> None:
    with MixSocket() as listener:
        listener.bind((V4, 0))
        listener.listen()
        port = listener.getsockname()[1]
        with create_connection(("server.example.com", port), LIMIT) as sock:
            assert sock.getpeername() == (V4, port)
        with MixSocket() as sock:
            sock.connect(("server.example.com", port))
            assert sock.getpeername() == (V4, port)
        with MixSocket() as sock, pytest.raises(stdlib.gaierror):
            sock.connect_ex(("missing.example.org", port))


@pytest.mark.parametrize(
    ("address", "flags"),
    [
        (("127.0.0.1", 80), stdlib.NI_NUMERICHOST), (("127.0.0.1", 80), stdlib.NI_NUMERICSERV | stdlib.NI_NUMERICHOST),
        (("203.0.113.5", 53), stdlib.NI_NUMERICHOST | stdlib.NI_DGRAM), (("::1", 443), stdlib.NI_NUMERICHOST),
        (("::1", 443, 0, 0), stdlib.NI_NUMERICHOST), (("2001:db8::1", 22, 5, 0), stdlib.NI_NUMERICHOST),
    ],
)  # fmt: skip
def test_getnameinfo_of_numbers_is_the_stdlibs(address: Any, flags: int, server: NameServer) -> None:
    assert mix_dns.getnameinfo(address, flags) == stdlib.getnameinfo(address, flags)
    assert not server.asked


def test_services_and_protocols_are_the_machines() -> None:
    from smolmix_sync import socket as mixed

    assert mixed.getservbyname("https", "tcp") == 443
    assert mixed.getservbyport(53, "udp") == "domain"
    assert mixed.getprotobyname("udp") == stdlib.IPPROTO_UDP


@pytest.mark.parametrize(
    "flags", [0, stdlib.AI_ADDRCONFIG, stdlib.AI_PASSIVE, stdlib.AI_NUMERICSERV, stdlib.AI_CANONNAME]
)
def test_flags_do_not_change_the_addresses_of_a_name(flags: int) -> None:
    found = mix_dns.getaddrinfo("www.example.com", "443", stdlib.AF_INET, stdlib.SOCK_STREAM, 0, flags)
    assert [entry[4] for entry in found] == [("203.0.113.5", 443), ("203.0.113.6", 443)]


def test_this_machines_own_addresses_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    # In a namespace without any the C function says EAI_ADDRFAMILY, to asyncio's and aiohttp's questions as well.
    native = _originals.getaddrinfo

    def without_addresses(*args: Any) -> Any:
        if args[5] & stdlib.AI_ADDRCONFIG:
            raise stdlib.gaierror(stdlib.EAI_ADDRFAMILY, "Address family for hostname not supported")
        return native(*args)

    monkeypatch.setattr(_originals, "getaddrinfo", without_addresses)
    for host, address in (
        ("www.example.com", "203.0.113.5"),
        ("198.51.100.1", "198.51.100.1"),
        ("2001:db8::1", "2001:db8::1"),
    ):
        found = mix_dns.getaddrinfo(host, 443, 0, stdlib.SOCK_STREAM, 0, stdlib.AI_ADDRCONFIG)
        assert address in [entry[4][0] for entry in found]


def test_a_name_in_hosts_is_answered_without_a_question_and_goes_nowhere_else(server: NameServer) -> None:
    resolver = provider.current().device.resolver
    config = resolver.config
    resolver.config = dataclasses.replace(
        config, hosts={"intranet.example": ["10.1.2.3"], "none.example": []}
    )
    try:
        assert mix_dns.gethostbyname("intranet.example") == "10.1.2.3"
        with MixSocket() as sock:
            assert sock.connect_ex(("intranet.example", 80)) == errno.EACCES
        assert failure_of(lambda: mix_dns.gethostbyname("none.example")) == stdlib.EAI_NONAME
    finally:
        resolver.config = config
    assert not server.asked
