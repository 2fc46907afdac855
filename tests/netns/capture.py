"""Count every frame of this network namespace that is not TCP to or from the allowed endpoints.

usage: capture.py ADDRESS:PORT...    prints "ready", then on end of stdin one JSON object
"""

from __future__ import annotations

import json
import selectors
import socket
import struct
import sys

ETH_P_ALL = 0x0003
ETH_P_IP = 0x0800


def main() -> None:
    allowed = {(host, int(port)) for host, _, port in (word.rpartition(":") for word in sys.argv[1:])}
    sniffer = socket.socket(
        socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)
    )  # every interface, lo too
    sniffer.setsockopt(
        socket.SOL_SOCKET, 33, 64 << 20
    )  # SO_RCVBUFFORCE: a lost frame would be an uncounted leak
    resolver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    resolver.bind(("127.0.0.53", 53))
    counts = {"allowed": 0, "other": 0, "queries": 0, "lost": 0}
    examples: list[str] = []
    selector = selectors.DefaultSelector()
    for source in (sniffer, resolver, sys.stdin.buffer):
        selector.register(source, selectors.EVENT_READ)
    print("ready", flush=True)
    while True:
        for key, _ in selector.select():
            if key.fileobj is sniffer:
                frame, where = sniffer.recvfrom(65536)
                if is_allowed(frame, where[1], allowed):
                    counts["allowed"] += 1
                else:
                    counts["other"] += 1
                    examples.append(f"{where[0]} {where[1]:#06x} {frame[14:54].hex()}")
            elif key.fileobj is resolver:
                resolver.recvfrom(4096)
                counts["queries"] += 1
            elif not sys.stdin.buffer.read1(4096):
                received_dropped = sniffer.getsockopt(263, 6, 8)  # SOL_PACKET, PACKET_STATISTICS
                counts["lost"] = struct.unpack("II", received_dropped)[1]
                print(json.dumps({**counts, "examples": examples[:20]}), flush=True)
                return


def is_allowed(frame: bytes, ethertype: int, allowed: set[tuple[str, int]]) -> bool:
    """Tell whether a frame is TCP between this namespace and one of the allowed endpoints."""
    if ethertype != ETH_P_IP or len(frame) < 38:
        return False
    packet = frame[14:]
    header = (packet[0] & 15) * 4
    if packet[9] != socket.IPPROTO_TCP:
        return False
    source_port, destination_port = struct.unpack_from("!HH", packet, header)
    source, destination = socket.inet_ntoa(packet[12:16]), socket.inet_ntoa(packet[16:20])
    return (source, source_port) in allowed or (destination, destination_port) in allowed


if __name__ == "__main__":
    main()
