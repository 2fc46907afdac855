"""``fetch`` beside ``urllib.request``: GET, POST and a redirect, with the connection kept between them."""

from __future__ import annotations

import sys
import urllib.request

from _example import compare, parser, place, report


def by_urllib(base: str, paths: dict[str, bytes | None]) -> str:
    """Make the requests the standard way."""
    told = []
    for path, body in paths.items():
        with urllib.request.urlopen(urllib.request.Request(base + path, data=body), timeout=60) as answer:
            told.append(f"{path} {answer.status} ({len(answer.read())} octets)")
    return ", ".join(told)


def main() -> int:
    """Run it twice."""
    arguments = parser(__doc__).parse_args()
    if arguments.localnet:
        host, paths = "www.localnet", {"/headers": None, "/echo": b"a body", "/redirect/2": None}
    else:
        host, paths = "httpbin.org", {"/get": None, "/post": b"a body", "/redirect/2": None}
    with place(arguments) as here:
        address, port = here.clear((host, 80))
        _, clear = report("clear", lambda: by_urllib(f"http://{address}:{port}", paths))

        def by_fetch() -> str:
            told = []
            for path, body in paths.items():
                answer = here.tunnel.fetch(
                    f"http://{host}{path}", "GET" if body is None else "POST", body=body, timeout=60
                )
                told.append(f"{path} {answer.status} ({len(answer.body)} octets)")
            return ", ".join(told)

        _, mixnet = report("mixnet", by_fetch)
        agent = here.tunnel.fetch(f"http://{host}/headers").json()["headers"]
        print(f"# what fetch says about itself: {agent}")
        compare(clear, mixnet)
    return 0


if __name__ == "__main__":
    sys.exit(main())
