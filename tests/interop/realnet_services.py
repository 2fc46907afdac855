"""What listens inside the namespace of a real network: the directory, and the internet behind its exit.

Run as ``python realnet_services.py FOLDER`` by :mod:`realnet`, which writes ``nodes.json`` and the server's
certificate there. The directory answers what nym-node 1.31.0 and our client ask for.
"""

from __future__ import annotations

import datetime
import functools
import hashlib
import json
import socket
import socketserver
import ssl
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

TARGET = "198.51.100.10"
NAME = "www.realnet.test"
NAMESERVERS = ("1.1.1.1", "8.8.8.8", "9.9.9.9")
API_PORT = 8000
#: What an exit that is no open proxy asks for: all but port 81, where nothing listens. ICMP counts as port 0, which
#: matches every range, so what is accepted comes first.
EXIT_POLICY = "ExitPolicy accept *:1-80\nExitPolicy accept *:82-65535\nExitPolicy reject *:*\n"
EPOCH, VALIDITY = 100, 24
ROTATION = EPOCH // VALIDITY
Json = dict[str, Any]


def timestamp() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


STARTED = timestamp()


# --- the directory ---


def paged(items: list[Json]) -> Json:
    return {"pagination": {"total": len(items), "page": 0, "size": len(items)}, "data": items}


def annotated(items: list[Json]) -> Json:
    metadata = {
        "status": None,
        "absolute_epoch_id": EPOCH,
        "rotation_id": ROTATION,
        "refreshed_at": timestamp(),
    }
    return {"metadata": metadata, "nodes": paged(items)}


def roles(node: Json) -> Json:
    gateway = node["layer"] is None
    return {
        "mixnode": not gateway,
        "entry": gateway,
        "exit_nr": node["name"] == "exit",
        "exit_ipr": node["name"] == "exit",
    }


def skimmed(node: Json) -> Json:
    if node["layer"] is not None:
        role: object = {"Mixnode": {"layer": node["layer"]}}
    else:
        role = "ExitGateway" if node["name"] == "exit" else "EntryGateway"
    websocket = {"hostname": None, "ws_port": node["ws_port"], "wss_port": None}
    return {
        "node_id": node["node_id"],
        "ed25519_identity_pubkey": node["identity"],
        "ip_addresses": ["127.0.0.1"],
        "mix_port": node["mix_port"],
        "x25519_sphinx_pubkey": node["sphinx"],
        "role": role,
        "supported_roles": roles(node),
        "entry": websocket if node["layer"] is None else None,
        "performance": "1",
    }


def described(node: Json) -> Json:
    names = ("commit_sha", "commit_branch", "rustc_version", "rustc_channel", "cargo_profile", "cargo_triple")
    build = {
        **dict.fromkeys(names, "-"),
        "binary_name": "nym-node",
        "build_version": node["version"],
        "build_timestamp": STARTED,
        "commit_timestamp": STARTED,
    }
    keys = {
        "ed25519": node["identity"],
        "x25519": node["sphinx"],
        "current_x25519_sphinx_key": {"rotation_id": ROTATION, "public_key": node["sphinx"]},
        "pre_announced_x25519_sphinx_key": None,
        "x25519_versioned_noise": None,
    }
    description = {
        "last_polled": timestamp(),
        "host_information": {"ip_address": ["127.0.0.1"], "hostname": None, "keys": keys},
        "declared_role": roles(node),
        "auxiliary_details": {
            "location": None,
            "announce_ports": {"verloc_port": None, "mix_port": node["mix_port"]},
            "accepted_operator_terms_and_conditions": True,
        },
        "build_information": build,
        "network_requester": None,
        "ip_packet_router": {"address": node["ipr"]} if node["name"] == "exit" else None,
        "authenticator": None,
        "wireguard": None,
        "mixnet_websockets": {"ws_port": node["ws_port"] or 9000, "wss_port": None},
    }
    return {"node_id": node["node_id"], "contract_node_type": "nym_node", "description": description}


def rotation_info() -> Json:
    first = ROTATION * VALIDITY
    return {
        "key_rotation_state": {"validity_epochs": VALIDITY, "initial_epoch_id": 0},
        "current_absolute_epoch_id": EPOCH,
        "current_epoch_start": STARTED,
        "epoch_duration": {"secs": 86400, "nanos": 0},
        "progress": {
            "current_key_rotation_id": ROTATION,
            "current_rotation_starting_epoch": first,
            "current_rotation_ending_epoch": first + VALIDITY - 1,
        },
    }


def rewarded_set(nodes: list[Json]) -> Json:
    def ids(**wanted: object) -> list[int]:
        return [n["node_id"] for n in nodes if all(n[name] == value for name, value in wanted.items())]

    return {
        "epoch_id": EPOCH,
        "entry_gateways": ids(name="entry"),
        "exit_gateways": ids(name="exit"),
        **{f"layer{layer}": ids(layer=layer) for layer in (1, 2, 3)},
        "standby": [],
    }


def directory(path: str, nodes: list[Json]) -> Json | None:
    """Return the answer to one GET, None for 404."""
    while path.startswith("/api/"):  # nym-node appends its own to the one in its settings
        path = path[4:]
    gateways = [node for node in nodes if node["layer"] is None]
    if path == "/v1/epoch/key-rotation-info":
        return rotation_info()
    if path == "/v1/nym-nodes/rewarded-set":
        return rewarded_set(nodes)
    if path.endswith("/nym-nodes/described"):
        return paged([described(node) for node in nodes])
    if path.startswith("/v2/unstable/nym-nodes/semi-skimmed"):
        return annotated([{"basic": skimmed(node), "x25519_noise_versioned_key": None} for node in nodes])
    if path.startswith("/v2/unstable/nym-nodes/skimmed"):
        if "/entry-gateways" in path:
            nodes = gateways
        elif "/exit-gateways" in path:
            nodes = [node for node in gateways if node["name"] == "exit"]
        elif "/mixnodes" in path:
            nodes = [node for node in nodes if node["layer"] is not None]
        return annotated([skimmed(node) for node in nodes])
    return None


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, body: bytes, status: int = 200, kind: str = "application/octet-stream") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))


class Directory(Handler):
    def __init__(self, folder: Path, *args: Any) -> None:
        self.folder = folder
        super().__init__(*args)

    def do_GET(self) -> None:
        if self.path.endswith("/exit-policy.txt"):
            self.answer(EXIT_POLICY.encode(), kind="text/plain")
            return
        value = directory(self.path.partition("?")[0], json.loads((self.folder / "nodes.json").read_text()))
        self.answer(json.dumps(value).encode(), 404 if value is None else 200, "application/json")

    def do_POST(self) -> None:
        body = self.body()
        value = None
        if self.path.endswith("/by-addresses"):
            value = {"existence": dict.fromkeys(json.loads(body)["addresses"], 1)}
        self.answer(json.dumps(value).encode(), kind="application/json")


# --- the internet ---


class Site(Handler):
    def do_GET(self) -> None:
        _, _, size = self.path.partition("/bytes/")
        self.answer(hashlib.shake_128(b"realnet").digest(int(size)) if size else b"hello from realnet\n")

    def do_POST(self) -> None:
        body = self.body()
        self.answer(json.dumps({"length": len(body), "sha256": hashlib.sha256(body).hexdigest()}).encode())


class Echo(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        while data := self.request.recv(65536):
            self.request.sendall(data)


class DatagramEcho(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        data, server = self.request
        server.sendto(data, self.client_address)


class Names(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        data, server = self.request
        query = dns.message.from_wire(data)
        response = dns.message.make_response(query)
        question = query.question[0]
        name = question.name.to_text(omit_final_dot=True)
        if name == NAME and question.rdtype == dns.rdatatype.A:
            response.answer.append(dns.rrset.from_text(question.name, 60, "IN", "A", TARGET))
        elif name not in (NAME, "", "."):
            response.set_rcode(dns.rcode.NXDOMAIN)
        server.sendto(response.to_wire(), self.client_address)


class TcpServer(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 64


class UdpServer(socketserver.ThreadingUDPServer):
    daemon_threads = True


def main(folder: Path) -> None:
    secure = ThreadingHTTPServer((TARGET, 443), Site)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / f"{NAME}.pem")
    secure.socket = context.wrap_socket(secure.socket, server_side=True, do_handshake_on_connect=False)
    servers: list[socketserver.BaseServer] = [
        ThreadingHTTPServer(("127.0.0.1", API_PORT), functools.partial(Directory, folder)),
        ThreadingHTTPServer((TARGET, 80), Site),
        secure,
        TcpServer((TARGET, 7), Echo),
        UdpServer((TARGET, 7), DatagramEcho),
        *(UdpServer((address, 53), Names) for address in NAMESERVERS),
    ]
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    (folder / "services.up").write_text(socket.gethostname())
    threading.Event().wait()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
