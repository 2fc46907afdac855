"""dnspython: the system's resolver configuration, a server of its own by UDP and TCP, a truncated answer."""

import dns.flags
import dns.message
import dns.query
import dns.rdatatype
import dns.resolver

SERVICES = ("dnsmasq",)


def main(services: dict) -> str:
    server = services["dnsmasq"]
    # What /etc/resolv.conf names, whatever that is here.
    found = dns.resolver.resolve(server["host"], "A", lifetime=30)
    (address,) = (record.address for record in found)
    query = dns.message.make_query("small.example", "A")
    answer = dns.query.udp(query, address, port=server["port"], timeout=30)
    assert [record.address for record in answer.answer[0]] == ["192.0.2.7"], answer
    large = dns.message.make_query("large.example", "TXT", use_edns=0, payload=512)
    answer = dns.query.udp(large, address, port=server["port"], timeout=30)
    assert answer.flags & dns.flags.TC, answer
    answer = dns.query.tcp(large, address, port=server["port"], timeout=30)
    texts = sorted(text for record in answer.answer[0] for text in record.strings)
    assert texts == [b"%03d" % number + b"x" * 200 for number in range(20)], texts
    answer, by_tcp = dns.query.udp_with_fallback(large, address, port=server["port"], timeout=30)
    assert by_tcp
    assert len(answer.answer[0]) == 20
    resolver = dns.resolver.Resolver(configure=False)
    resolver.nameservers, resolver.port = [address], server["port"]
    assert resolver.resolve("mail.example", "MX")[0].exchange.to_text() == "mx.example."
    try:
        resolver.resolve("nothing.example", "A")
    except dns.resolver.NXDOMAIN:
        pass
    else:
        raise AssertionError("there is no such name")
    return "the configured resolver; one of its own by UDP and TCP: A, MX, 4 kB of TXT after a truncated answer, NXDOMAIN"
