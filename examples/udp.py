"""One DNS query in a UDP datagram to 1.1.1.1, with and without the mixnet: answers and latency compared."""

from __future__ import annotations

import socket
import sys

import dns.message
from _example import compare, parser, place, report


def ask(sock: socket.socket, server: tuple[str, int], name: str) -> str:
    """Send the query, again after each second without an answer (datagrams get lost); return the addresses."""
    query = dns.message.make_query(name, "A")
    sock.settimeout(3.0)
    with sock:
        for _ in range(5):
            sock.sendto(query.to_wire(), server)
            try:
                answer = dns.message.from_wire(sock.recvfrom(4096)[0])
            except TimeoutError:
                continue
            if answer.id == query.id:
                break
        else:
            raise TimeoutError(f"{server[0]} does not answer")
    found = sorted(record.address for rrset in answer.answer for record in rrset if record.rdtype == 1)
    return f"{name} is {', '.join(found)}"


def main() -> int:
    """Run it twice."""
    arguments = parser(__doc__).parse_args()
    name = "www.localnet" if arguments.localnet else "nymtech.net"
    with place(arguments) as here:
        target = ("1.1.1.1", 53)
        clear_socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        known, clear = report("clear", lambda: ask(clear_socket, here.clear(target), name))
        hidden, mixnet = report("mixnet", lambda: ask(here.tunnel.udp_socket(), target, name))
        compare(clear, mixnet)
    print(
        "the answers are the same"
        if known == hidden
        else "the answers differ (the name may be served by place)"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
