"""The resolver's core, in virtual time, against messages made by dnspython."""

from __future__ import annotations

from pathlib import Path
from socket import AF_INET, gethostname

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smolmix_sync.errors import WireError
from smolmix_sync.reactor.resolver import (
    AAAA,
    EAI_NONAME,
    PTR,
    A,
    Answer,
    Cache,
    NameResolutionError,
    Question,
    ResolverConfig,
    ascii_name,
    decode_untrusted,
    fixed_addresses,
    in_order,
    system_hosts,
)

CONFIG = ResolverConfig(primary="192.0.2.1", fallback="192.0.2.2", timeout=30.0)


class Idents:
    """Query identifiers 1, 2, 3 ..."""

    def __init__(self) -> None:
        self.last = 0

    def __call__(self, count: int) -> bytes:
        self.last += 1
        return self.last.to_bytes(count, "big")


def ask(name: str = "www.example.com", rdtype: int = A, config: ResolverConfig = CONFIG) -> Question:
    return Question(name, rdtype, config, 0.0, Idents())


def reply(query: bytes, *records: str, rcode: int = 0, truncated: bool = False, soa: str = "") -> bytes:
    message = dns.message.make_response(dns.message.from_wire(query))
    message.set_rcode(dns.rcode.Rcode(rcode))
    if truncated:
        message.flags |= dns.flags.TC
    for record in records:
        owner, ttl, kind, value = record.split(" ", 3)
        message.answer.append(dns.rrset.from_text(owner, int(ttl), "IN", kind, value))
    if soa:
        message.authority.append(
            dns.rrset.from_text("example.com.", 600, "IN", "SOA", f"ns. h. 1 2 3 4 {soa}")
        )
    return bytes(message.to_wire())


def only(question: Question) -> bytes:
    [transmit] = question.data_to_send()
    return transmit.payload


def test_answer_is_taken_with_its_ttl() -> None:
    question = ask()
    [transmit] = question.data_to_send()
    assert (transmit.server, transmit.tcp) == ("192.0.2.1", False)
    question.receive_data(
        reply(transmit.payload, "www.example.com. 60 A 203.0.113.5"), "192.0.2.1", False, 1.0
    )
    assert question.answer == Answer(("203.0.113.5",), "www.example.com", 61.0)
    assert question.done
    assert question.next_deadline() is None


def test_chain_of_aliases_is_followed_and_the_shortest_ttl_counts() -> None:
    question = ask()
    records = (
        "www.example.com. 30 CNAME a.example.net.",
        "a.example.net. 200 CNAME b.example.net.",
        "b.example.net. 100 A 203.0.113.5",
    )
    question.receive_data(reply(only(question), *records), "192.0.2.1", False, 0.0)
    assert question.answer == Answer(("203.0.113.5",), "b.example.net", 30.0)


def test_circle_of_aliases_ends() -> None:
    question = ask()
    records = ("www.example.com. 30 CNAME a.example.net.", "a.example.net. 30 CNAME www.example.com.")
    question.receive_data(reply(only(question), *records), "192.0.2.1", False, 0.0)
    assert question.answer is not None
    assert question.answer.records == ()


def test_name_that_does_not_exist_is_kept_as_long_as_its_zone_says() -> None:
    question = ask()
    question.receive_data(reply(only(question), rcode=3, soa="20"), "192.0.2.1", False, 5.0)
    assert question.answer == Answer((), "www.example.com", 25.0, exists=False)
    question = ask(rdtype=AAAA)
    question.receive_data(reply(only(question)), "192.0.2.1", False, 5.0)
    assert question.answer == Answer((), "www.example.com", 65.0, exists=True)


def test_ttl_is_capped() -> None:
    question = ask()
    question.receive_data(
        reply(only(question), "www.example.com. 99999 A 203.0.113.5"), "192.0.2.1", False, 0.0
    )
    assert question.answer is not None
    assert question.answer.expires == 300.0


def test_names_of_addresses() -> None:
    question = ask("5.113.0.203.in-addr.arpa", PTR)
    question.receive_data(
        reply(only(question), "5.113.0.203.in-addr.arpa. 60 PTR host.example."), "192.0.2.1", False, 0.0
    )
    assert question.answer is not None
    assert question.answer.records == ("host.example",)


def test_query_is_sent_again_then_the_fallback_is_asked_and_then_it_fails() -> None:
    question = ask()
    sent: list[tuple[float, str]] = []
    now = 0.0
    while True:
        sent += [(now, transmit.server) for transmit in question.data_to_send()]
        deadline = question.next_deadline()
        if deadline is None:
            break
        now = deadline
        question.handle_deadline(now)
    first = [(at, "192.0.2.1") for at in (0.0, 3.0, 6.0, 12.0)]
    assert sent == first + [(30.0 + at, "192.0.2.2") for at, _ in first]
    assert now == 60.0
    assert question.failed == "192.0.2.2 does not answer"
    question.handle_deadline(99.0)
    question.path_failed(99.0, "x")
    question.receive_data(b"", "192.0.2.2", False, 99.0)
    assert not question.data_to_send()


def test_late_call_deals_with_every_past_deadline() -> None:
    question = ask()
    only(question)
    question.handle_deadline(10.0)
    assert len(question.data_to_send()) == 1
    assert question.next_deadline() == 12.0


@pytest.mark.parametrize("answered", [0, 1])
def test_resend_has_an_identifier_of_its_own_and_either_may_be_answered(answered: int) -> None:
    question = ask()
    sent = question.data_to_send()
    question.handle_deadline(3.0)
    sent += question.data_to_send()
    assert sent[0].ident != sent[1].ident
    assert [int.from_bytes(one.payload[:2], "big") for one in sent] == [one.ident for one in sent]
    good = reply(sent[answered].payload, "www.example.com. 60 A 203.0.113.5")
    # To the port of the other query: somebody guesses.
    question.receive_data(good, "192.0.2.1", False, 4.0, sent[1 - answered].ident)
    assert (question.dropped, question.done) == (1, False)
    question.receive_data(good, "192.0.2.1", False, 4.0, sent[answered].ident)
    assert question.answer is not None


def test_over_https_the_query_is_padded_without_resends_and_the_fallback_follows() -> None:
    config = ResolverConfig(primary="192.0.2.1", fallback="192.0.2.2", timeout=30.0, https=True)
    question = ask(config=config)
    [transmit] = question.data_to_send()
    assert (transmit.https, transmit.tcp, transmit.ident) == (True, True, 0)
    assert len(transmit.payload) % 128 == 0
    assert question.next_deadline() == 30.0
    question.path_failed(1.0, "the certificate does not verify")
    [transmit] = question.data_to_send()
    assert (transmit.https, transmit.server) == (True, "192.0.2.2")
    question.receive_data(
        reply(transmit.payload, "www.example.com. 60 A 203.0.113.5"), "192.0.2.2", True, 2.0
    )
    assert question.answer is not None


def test_addresses_of_both_families_take_turns() -> None:
    four = Answer(("1.0.0.1", "1.0.0.2", "1.0.0.3"), "x", 0.0)
    six = Answer(("2001:db8::1",), "x", 0.0)
    assert in_order([four, six]) == ["1.0.0.1", "2001:db8::1", "1.0.0.2", "1.0.0.3"]
    assert in_order([six]) == ["2001:db8::1"]
    assert in_order([]) == []


def test_truncated_answer_is_asked_for_by_tcp_with_a_new_identifier() -> None:
    question = ask()
    query = only(question)
    question.receive_data(reply(query, truncated=True), "192.0.2.1", False, 1.0)
    [transmit] = question.data_to_send()
    assert transmit.tcp
    assert transmit.payload[:2] != query[:2]
    question.receive_data(
        reply(transmit.payload, "www.example.com. 60 A 203.0.113.5"), "192.0.2.1", True, 2.0
    )
    assert question.answer is not None


@pytest.mark.parametrize("rcode", [2, 4, 5])
def test_failing_server_hands_over_to_the_fallback(rcode: int) -> None:
    question = ask()
    question.receive_data(reply(only(question), rcode=rcode), "192.0.2.1", False, 1.0)
    [transmit] = question.data_to_send()
    assert transmit.server == question.server == "192.0.2.2"
    question.receive_data(reply(transmit.payload, rcode=rcode), "192.0.2.2", False, 2.0)
    assert question.failed == f"192.0.2.2 answered with rcode {rcode}"


def test_server_without_edns_is_asked_without() -> None:
    question = ask()
    question.receive_data(reply(only(question), rcode=1), "192.0.2.1", False, 1.0)
    query = only(question)
    assert dns.message.from_wire(query).edns == -1
    question.receive_data(reply(query, rcode=1), "192.0.2.1", False, 2.0)
    assert question.server == "192.0.2.2"


def test_broken_path_hands_over_too() -> None:
    question = ask()
    only(question)
    question.path_failed(1.0, "refused")
    assert question.server == "192.0.2.2"
    question.path_failed(2.0, "refused again")
    assert question.failed == "refused again"


def test_what_is_not_the_answer_is_ignored() -> None:
    question = ask()
    query = only(question)
    good = reply(query, "www.example.com. 60 A 203.0.113.5")
    other = ask("www.example.org")
    wrong = [
        (good, "192.0.2.9", False),  # from somebody else
        (bytes([query[0] ^ 1]) + good[1:], "192.0.2.1", False),  # another identifier
        (good, "192.0.2.1", True),  # another way
        (reply(only(other)), "192.0.2.1", False),  # another question
        (query, "192.0.2.1", False),  # no response
        (b"", "192.0.2.1", False),
        (good[:-3], "192.0.2.1", False),
    ]
    for payload, server, tcp in wrong:
        question.receive_data(payload, server, tcp, 1.0)
    assert question.dropped == len(wrong)
    assert not question.done
    question.receive_data(good, "192.0.2.1", False, 2.0)
    assert question.answer is not None


def test_no_server_at_all_fails() -> None:
    assert ask(config=ResolverConfig(primary="", fallback="")).failed


def test_impossible_names_do_not_exist() -> None:
    with pytest.raises(NameResolutionError) as caught:
        ask("a..b")
    assert caught.value.errno == EAI_NONAME


@given(st.binary(max_size=200))
def test_garbage_raises_wire_error_only(data: bytes) -> None:
    try:
        decode_untrusted(data)
    except WireError:
        pass


@given(st.integers(0, 200), st.integers(0, 255))
def test_damaged_responses_raise_wire_error_only(position: int, value: int) -> None:
    damaged = bytearray(reply(only(ask()), "www.example.com. 60 A 203.0.113.5", soa="5"))
    damaged[position % len(damaged)] = value
    try:
        decode_untrusted(bytes(damaged))
    except WireError:
        pass


# --- the cache --------------------------------------------------------------------------------


def test_cache_keeps_answers_until_they_expire() -> None:
    cache = Cache(10)
    answer = Answer(("203.0.113.5",), "n", 10.0)
    cache.put("n", A, answer)
    assert cache.get("n", A, 9.9) is answer
    assert cache.get("n", AAAA, 0.0) is None
    assert cache.get("n", A, 10.0) is None
    assert len(cache) == 0


def test_cache_is_bounded_and_forgets_the_least_used() -> None:
    cache = Cache(2)
    for name in ("a", "b"):
        cache.put(name, A, Answer((), name, 10.0))
    assert cache.get("a", A, 0.0)
    cache.put("c", A, Answer((), "c", 10.0))
    assert [bool(cache.get(name, A, 0.0)) for name in ("a", "b", "c")] == [True, False, True]
    cache.clear()
    assert len(cache) == 0
    none = Cache(0)
    none.put("a", A, Answer((), "a", 10.0))
    assert len(none) == 0


# --- names that need no question --------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "family", "expected"),
    [
        ("localhost", 0, ["127.0.0.1", "::1"]),
        ("localhost", 2, ["127.0.0.1"]),
        ("some.localhost", 10, ["::1"]),
        ("ip6-localhost", 10, ["::1"]),
        ("203.0.113.9", 0, ["203.0.113.9"]),
        ("203.0.113.9", 10, []),
        ("2001:db8::1", 0, ["2001:db8::1"]),
        ("2001:db8::1", 2, []),
        ("printer.local", 0, []),
        ("hidden.onion", 0, []),
        ("intranet", 0, []),
        ("", 0, []),
        ("www.example.com", 0, None),
        ("a." * 127 + "com", 0, []),
        ("configured", 0, ["203.0.113.1", "2001:db8::9"]),
        ("configured", 10, ["2001:db8::9"]),
    ],
)
def test_names_answered_without_a_question(name: str, family: int, expected: list[str] | None) -> None:
    hosts = {"configured": ["203.0.113.1", "2001:db8::9"]}
    assert fixed_addresses(name, family, hosts) == expected


def test_names_of_this_machine_can_be_left_out() -> None:
    assert fixed_addresses("localhost", 0, {}, local=False) == []


def test_names_are_normalised() -> None:
    assert ascii_name("WWW.Bücher.Example.") == "www.xn--bcher-kva.example"
    with pytest.raises(NameResolutionError):
        ascii_name("ü" * 100)


def test_hosts_file_gives_names_and_no_way_out(tmp_path: Path) -> None:
    file = tmp_path / "hosts"
    file.write_text(
        "127.0.0.1 localhost printer.example\n::1 localhost ip6-localhost\n0.0.0.0 tracker.example # blocked\n"
        "203.0.113.7\tServer.Example. server\n2001:db8::7 server.example\n203.0.113.7 server.example\n"
        "fe80::1%eth0 neighbour.example\nnot-an-address name.example\n# 1.2.3.4 comment.example\n\n"
        "10.0.0.5 intranet.example\n"
        f"192.0.2.200 {gethostname()}\n"
    )  # fmt: skip
    found = system_hosts(str(file))
    assert found == {
        "printer.example": [], "tracker.example": [], "neighbour.example": [],
        "server.example": ["203.0.113.7", "2001:db8::7"], "server": ["203.0.113.7"], "intranet.example": ["10.0.0.5"],
    }  # fmt: skip
    assert fixed_addresses("server.example", 0, found) == ["203.0.113.7", "2001:db8::7"]
    assert fixed_addresses("server", int(AF_INET), found) == ["203.0.113.7"]
    assert fixed_addresses("printer.example", 0, found) == [], "it does not exist, rather than being loopback"
    assert fixed_addresses("localhost", int(AF_INET), found) == ["127.0.0.1"]
    assert system_hosts(str(tmp_path / "missing")) == {}
