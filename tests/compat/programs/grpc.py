"""grpc: its core has sockets of its own; through a forwarded AF_UNIX socket it works, TLS included."""

import grpc

LIBRARY = "grpcio"
SERVICES = ("grpc",)
EXPECT = "refused"
NEEDS_FORWARD = {"service": "grpc", "port": "port", "path": "grpc.sock", "allow": ("grpc",)}
NOTE = "Through an AF_UNIX socket: the target ``unix:PATH``, and the name that TLS checks as an option."
NO_GEVENT = "Waits for threads that gevent has replaced, with gevent alone as well."


def main(services: dict) -> str:
    server = services["grpc"]
    with open(server["ca"], "rb") as file:
        credentials = grpc.ssl_channel_credentials(file.read())
    target = f"{server['host']}:{server['port']}"
    if "forwarded" in server:
        target = f"unix:{server['forwarded']['address']}"
    options = [("grpc.ssl_target_name_override", server["host"]), ("grpc.default_authority", server["host"])]
    with grpc.secure_channel(target, credentials, options) as channel:
        turn = channel.unary_unary("/matrix.Matrix/Turn")
        body = bytes(range(256)) * 100
        assert turn(body, timeout=30) == body[::-1]
        count = channel.unary_stream("/matrix.Matrix/Count")
        assert list(count(b"5", timeout=30)) == [b"0", b"1", b"2", b"3", b"4"]
        try:
            channel.unary_unary("/matrix.Matrix/Nothing")(b"", timeout=30)
        except grpc.RpcError as error:
            assert error.code() is grpc.StatusCode.UNIMPLEMENTED, error
        else:
            raise AssertionError("there is no such method")
    return "TLS: a call with 25 kB, a stream, an unknown method"
