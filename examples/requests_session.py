"""requests with a session of ``smolmix_sync.ext.requests``: cookies, redirects and JSON as ever."""

from __future__ import annotations

import sys

import requests
from _example import compare, parser, place, report

from smolmix_sync.ext.requests import session


def visit(client: requests.Session, base: str, paths: list[str]) -> str:
    """Use the session for several requests; return their results and the cookies it has kept."""
    told = []
    for path in paths:
        answer = client.get(base + path, timeout=60)
        answer.raise_for_status()
        told.append(f"{path} {answer.status_code} after {len(answer.history)} redirects")
    return ", ".join(told) + f"; cookies {client.cookies.get_dict()}"


def main() -> int:
    """Run it twice."""
    arguments = parser(__doc__).parse_args()
    if arguments.localnet:
        host, paths = "www.localnet", ["/cookie", "/redirect/2", "/headers"]
    else:
        host, paths = "httpbin.org", ["/cookies/set?taste=sweet", "/redirect/2", "/headers"]
    with place(arguments) as here:
        address, port = here.clear((host, 80))
        with requests.Session() as client:
            _, clear = report("clear", lambda: visit(client, f"http://{address}:{port}", paths))
        with session(here.tunnel) as mixed:
            scheme = "https"
            _, mixnet = report("mixnet", lambda: visit(mixed, f"{scheme}://{host}", paths))
        compare(clear, mixnet)
    return 0


if __name__ == "__main__":
    sys.exit(main())
