"""A gRPC server with TLS; prints its port.

usage: grpc_matrix.py ADDRESS CERTIFICATE
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc


def turn(request: bytes, context: grpc.ServicerContext) -> bytes:
    return request[::-1]


def count(request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
    for number in range(int(request)):
        yield b"%d" % number


def main() -> None:
    address, pem = sys.argv[1:]
    text = Path(pem).read_bytes()
    server = grpc.server(ThreadPoolExecutor(2))
    handlers = {
        "Turn": grpc.unary_unary_rpc_method_handler(turn),
        "Count": grpc.unary_stream_rpc_method_handler(count),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("matrix.Matrix", handlers),))
    port = server.add_secure_port(f"{address}:0", grpc.ssl_server_credentials([(text, text)]))
    server.start()
    print(port, flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    main()
