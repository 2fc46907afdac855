"""What listens inside the namespace of a mixed network, and an ear on its loopback interface.

Run as ``python mixed_services.py FOLDER`` by :mod:`mixednet`. The services are those of :mod:`realnet_services`; its
directory is told more here: addresses and Noise keys of the nodes, and which of them clients are to use.
``flows.json`` in the folder gets one line for each direction of every TCP connection that carried data: both ends and
the first octets.
"""

from __future__ import annotations

import json
import socket
import struct
import sys
import threading
from pathlib import Path
from typing import Any

import realnet_services

Json = dict[str, Any]
FIRST_OCTETS = 8
#: Octets in front of the IP header that AF_PACKET shows, and the type of an IPv4 frame.
ETHERNET, IPV4 = 14, 0x0800


def noise_key(node: Json) -> Json | None:
    if node["noise"] is None:
        return None
    return {"supported_version": 1, "x25519_pubkey": node["noise"]}


#: What the directory of :mod:`realnet_services` says.
plain_directory = realnet_services.directory


def directory(path: str, nodes: list[Json]) -> Json | None:
    """Return the answer to one GET: what nodes read names every node, what clients read those in use."""
    for_nodes = "semi-skimmed" in path
    nodes = [node for node in nodes if for_nodes or node["used"]]
    answer = plain_directory(path, nodes)
    if answer is None:
        return None
    by_id = {node["node_id"]: node for node in nodes}
    if path.endswith("/rewarded-set"):
        answer["entry_gateways"] = [n["node_id"] for n in nodes if n["ws_port"] and n["name"] != "exit"]
    elif path.endswith("/described"):
        for record in answer["data"]:
            node, host = by_id[record["node_id"]], record["description"]["host_information"]
            host["ip_address"] = [node["address"]]
            host["keys"]["x25519_versioned_noise"] = noise_key(node)
    elif "skimmed" in path:
        for record in answer["nodes"]["data"]:
            basic = record["basic"] if for_nodes else record
            node = by_id[basic["node_id"]]
            basic["ip_addresses"] = [node["address"]]
            if for_nodes:
                record["x25519_noise_versioned_key"] = noise_key(node)
    return answer


def listen_to_loopback(path: Path) -> None:
    """Write down how every TCP connection of the namespace begins."""
    seen: set[bytes] = set()
    ear = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(IPV4))
    ear.bind(("lo", IPV4))
    with path.open("w", buffering=1) as file:
        while True:
            packet = ear.recv(65536)[ETHERNET:]
            header = (packet[0] & 15) * 4
            if packet[9] != socket.IPPROTO_TCP:
                continue
            segment = packet[header:]
            data = segment[(segment[12] >> 4) * 4 : struct.unpack_from("!H", packet, 2)[0] - header]
            key = packet[12:20] + segment[:4]
            if not data or key in seen:
                continue
            seen.add(key)
            source, target = struct.unpack_from("!HH", segment)
            ends = [socket.inet_ntoa(packet[12:16]), source, socket.inet_ntoa(packet[16:20]), target]
            file.write(json.dumps([*ends, data[:FIRST_OCTETS].hex()]) + "\n")


def main(folder: Path) -> None:
    threading.Thread(target=listen_to_loopback, args=(folder / "flows.json",), daemon=True).start()
    realnet_services.directory = directory  # its request handler looks it up by name
    realnet_services.main(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
