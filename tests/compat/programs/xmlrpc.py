"""xmlrpc: calls over HTTP and HTTPS, a batch, a fault."""

import ssl
import xmlrpc.client

SERVICES = ("xmlrpc",)


def main(services: dict) -> str:
    server = services["xmlrpc"]
    context = ssl.create_default_context(cafile=server["ca"])
    urls = (f"http://{server['host']}:{server['port']}", f"https://{server['host']}:{server['tls_port']}")
    for url in urls:
        with xmlrpc.client.ServerProxy(
            url, context=context, use_builtin_types=True, allow_none=True
        ) as proxy:
            assert proxy.pow(2, 10) == 1024
            body = bytes(range(256)) * 60
            assert proxy.turned(body) == body[::-1]
            batch = xmlrpc.client.MultiCall(proxy)
            for number in range(5):
                batch.pow(number, 2)
            assert tuple(batch()) == (0, 1, 4, 9, 16)
            assert "turned" in proxy.system.listMethods()
            try:
                proxy.nothing()
            except xmlrpc.client.Fault as fault:
                assert "nothing" in fault.faultString
            else:
                raise AssertionError("there is no such method")
    return "calls over HTTP and HTTPS, 15 kB there and back, a batch, a fault"
