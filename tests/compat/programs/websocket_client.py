"""websocket-client: plain and over TLS, messages of both kinds, pings, the callbacks of WebSocketApp."""

import ssl

import websocket

LIBRARY = "websocket-client"
SERVICES = ("websocket",)


def main(services: dict) -> str:
    server = services["websocket"]
    options = {"cert_reqs": ssl.CERT_REQUIRED, "ca_certs": server["ca"]}
    body = bytes(range(256)) * 100
    urls = [f"ws://{server['host']}:{server['port']}/", f"wss://{server['host']}:{server['tls_port']}/"]
    for url in urls:
        connection = websocket.create_connection(url, timeout=30, sslopt=options, subprotocols=["echo"])
        assert connection.getsubprotocol() == "echo"
        connection.send("ünïcode")
        assert connection.recv() == "ünïcode"
        connection.send_binary(body)
        assert connection.recv() == body
        connection.ping("are you there")
        opcode, told = connection.recv_data(control_frame=True)
        assert (opcode, told) == (websocket.ABNF.OPCODE_PONG, b"are you there")
        connection.close()
    seen = []

    def opened(app: websocket.WebSocketApp) -> None:
        for number in range(5):
            app.send(f"message {number}")

    def received(app: websocket.WebSocketApp, message: str) -> None:
        seen.append(message)
        if len(seen) == 5:
            app.close()

    app = websocket.WebSocketApp(urls[1], on_open=opened, on_message=received)
    app.run_forever(sslopt=options)
    assert seen == [f"message {number}" for number in range(5)], seen
    return "25 kB echoed over ws and wss, text, pings, a subprotocol, WebSocketApp"
