"""An XML-RPC server, plain and over TLS; prints its two ports.

usage: xmlrpc_methods.py ADDRESS CERTIFICATE
"""

from __future__ import annotations

import json
import socketserver
import ssl
import sys
import threading
import xmlrpc.server


class Server(socketserver.ThreadingMixIn, xmlrpc.server.SimpleXMLRPCServer):
    """A thread for every connection."""

    daemon_threads = True


def turned(body: bytes) -> bytes:
    return body[::-1]


def serve(address: str) -> Server:
    server = Server((address, 0), logRequests=False, use_builtin_types=True)
    server.register_introspection_functions()
    server.register_multicall_functions()
    server.register_function(pow)
    server.register_function(turned)
    return server


def main() -> None:
    address, pem = sys.argv[1:]
    plain, secure = serve(address), serve(address)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pem)
    secure.socket = context.wrap_socket(secure.socket, server_side=True)
    threading.Thread(target=plain.serve_forever, daemon=True).start()
    print(json.dumps([plain.server_address[1], secure.server_address[1]]), flush=True)
    secure.serve_forever()


if __name__ == "__main__":
    main()
