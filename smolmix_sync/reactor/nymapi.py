"""nym-api over HTTP/1.1: the clear traffic that every start needs.

One connection per request, h11 over a real socket, certificates checked, no proxies, no redirects,
no cookies; plain http for loopback only.

Source: design.md section 8a; spec/topology.md sections 2 and 3.
"""

from __future__ import annotations

import email.utils
import errno
import ipaddress
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import gevent
import h11

from smolmix_sync._version import __version__
from smolmix_sync.errors import TopologyError, WireError
from smolmix_sync.reactor._real import Turn, client_tls_context, connect_tcp, limited

__all__ = ["BaseUrl", "HttpAnswer", "NymApi", "clock_ahead_untrusted", "http_get"]

#: Ours: the described page of the main network has about 2.5 MB; ten times that is no answer to our question.
MAX_BODY = 32 << 20
_READ = 65536
#: Ours: interim answers (1xx) to one request.
_MAX_INTERIM = 16
#: From the specification: X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED.
_DATED = (9, 10)


@dataclass(frozen=True, slots=True)
class BaseUrl:
    """A base URL taken apart and found acceptable."""

    scheme: str
    host: str
    port: int
    path: str

    @classmethod
    def parse(cls, url: str) -> BaseUrl:
        """Read *url*.

        Raises:
            ValueError: not http(s), or plain http to something that is not loopback.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url}: not an http(s) URL")
        if parts.username is not None or parts.query or parts.fragment:
            raise ValueError(f"{url}: user, query and fragment have no place in a base URL")
        if parts.scheme == "http" and not is_loopback(parts.hostname):
            raise ValueError(f"{url}: plain http is accepted for loopback only")
        port = parts.port or (443 if parts.scheme == "https" else 80)
        return cls(parts.scheme, parts.hostname, port, parts.path.rstrip("/"))

    @property
    def authority(self) -> str:
        """The Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.scheme == "https" else 80) else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.path}"


def is_loopback(host: str) -> bool:
    """Tell whether *host* is a loopback literal or ``localhost``."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """A complete answer with status 200.

    Attributes:
        content_type: lower case, without parameters; "" if absent.
        body: the body.
        ahead: seconds by which our clock was ahead of the server's, as far as its Date header (whole seconds)
            and the time the answer took can tell; None without one.
    """

    content_type: str
    body: bytes
    ahead: float | None = None


def clock_ahead_untrusted(date: str, sent: float, received: float) -> float | None:
    """Return by how much our clock is ahead of a server that wrote *date* between *sent* and *received*.

    Args:
        date: a Date header, whole seconds.
        sent, received: our wall clock then.

    Returns:
        The smallest difference that explains the header, 0.0 if none is needed; None if it is no date.

    Source: RFC 9110 section 6.6.1.
    """
    try:
        there = email.utils.parsedate_to_datetime(date).timestamp()
    except (ValueError, TypeError, OverflowError, AttributeError):
        return None
    # The header's second began at most one second before the moment that it names.
    if sent > there + 1:
        return sent - (there + 1)
    return received - there if received < there else 0.0


def http_get(
    base: BaseUrl,
    path: str,
    *,
    timeout: float,
    ca_file: str | None = None,
    addresses: Mapping[str, str] | None = None,
    max_body: int = MAX_BODY,
) -> HttpAnswer:
    """GET *path* below *base*; reactor greenlets only.

    Raises:
        TimeoutError: *timeout* seconds are over.
        OSError: the connection or TLS failed.
        WireError: the answer is no HTTP, no 200, or too large.
    """
    tls = client_tls_context(ca_file, (b"http/1.1",)) if base.scheme == "https" else None
    # A plain-http base was checked to be loopback by name; "localhost" is not left to a resolver.
    host = "127.0.0.1" if base.scheme == "http" and base.host == "localhost" else base.host
    with gevent.Timeout(
        timeout, TimeoutError(errno.ETIMEDOUT, f"no answer from {base.host} in {timeout:g} s")
    ):
        sock = connect_tcp(host, base.port, timeout=timeout, tls=tls, addresses=addresses)
        try:
            return _exchange(sock, base, path, max_body)
        except h11.RemoteProtocolError as error:
            raise WireError(f"{base.host}: {error}") from None
        finally:
            sock.close()


def _exchange(sock: object, base: BaseUrl, path: str, max_body: int) -> HttpAnswer:
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=64 * 1024)
    request = h11.Request(
        method="GET",
        target=f"{base.path}/{path}",
        headers=[
            ("Host", base.authority),
            ("Accept", "application/json"),
            ("Accept-Encoding", "identity"),
            ("User-Agent", f"smolmix-sync/{__version__}"),
            ("Connection", "close"),
        ],
    )
    sent, ahead = time.time(), None
    sock.sendall(connection.send(request) + connection.send(h11.EndOfMessage()))  # type: ignore[attr-defined]
    content_type = ""
    body = bytearray()
    interim = 0
    turn = Turn()
    while True:
        turn.give()
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(sock.recv(_READ))  # type: ignore[attr-defined]
        elif isinstance(event, h11.InformationalResponse):
            interim += 1
            if interim > _MAX_INTERIM:
                raise WireError(f"{base.host}: interim answers without an end")
        elif isinstance(event, h11.Response):
            if event.status_code != 200:
                raise WireError(f"{base.host} answered {event.status_code} to {path}")
            for name, value in event.headers:
                if name == b"content-type":
                    content_type = value.decode("latin-1").partition(";")[0].strip().lower()
                elif name == b"content-encoding" and value.lower() != b"identity":
                    raise WireError(f"{base.host}: unasked content encoding")
                elif name == b"date":
                    ahead = clock_ahead_untrusted(value.decode("latin-1"), sent, time.time())
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > max_body:
                raise WireError(f"{base.host}: the answer to {path} is larger than {max_body} octets")
        elif isinstance(event, h11.EndOfMessage):
            return HttpAnswer(content_type, bytes(body), ahead)
        elif isinstance(event, h11.ConnectionClosed):
            raise WireError(f"{base.host} closed the connection")


def _hint(error: BaseException) -> str:
    """Return what a person may want to look at: certificates have dates as well."""
    dated = getattr(error, "verify_code", None) in _DATED
    return " (is the clock of this machine right?)" if dated else ""


class NymApi:
    """The nym-api of a network behind one or more base URLs.

    Args:
        urls: base URLs in the order in which they are tried.
        timeout: seconds for one request to one of them.
        ca_file: trusted authorities instead of the system's.
        addresses: names pinned to IP literals.

    Attributes:
        ahead: seconds by which our clock is ahead of the one that answered last; None if it did not say.
    """

    def __init__(
        self,
        urls: Sequence[str],
        *,
        timeout: float = 10.0,
        ca_file: str | None = None,
        addresses: Mapping[str, str] | None = None,
    ) -> None:
        self._bases = [BaseUrl.parse(url) for url in urls]
        self._timeout = timeout
        self._ca_file = ca_file
        self._addresses = addresses
        self.ahead: float | None = None

    def __len__(self) -> int:
        return len(self._bases)

    def demote(self) -> None:
        """Try the base URL whose turn it is last from now on: what it answered makes no sense."""
        self._bases.append(self._bases.pop(0))

    def get_all(self, paths: Sequence[str], *, timeout: float | None = None) -> dict[str, HttpAnswer]:
        """Fetch all *paths* at once from the first base URL that serves every one of them.

        One base for all: pages of two directories may belong to two epochs.

        Args:
            paths: below the base, without a leading slash.
            timeout: seconds for the whole, all bases together; None: each has its own.

        Raises:
            TopologyError: no base URL served them; the message has one line for each.
        """
        failures: list[str] = []
        with limited(timeout):
            for base in list(self._bases):
                try:
                    answers = self._get_all_from(base, paths)
                except (OSError, WireError) as error:
                    failures.append(f"{base}: {error}{_hint(error)}")
                    # The next round starts with a base that may work.
                    self._bases.remove(base)
                    self._bases.append(base)
                    continue
                self.ahead = min(
                    (a.ahead for a in answers.values() if a.ahead is not None), key=abs, default=None
                )
                return answers
            raise TopologyError("nym-api cannot be reached: " + "; ".join(failures))
        failures.append(f"{self._bases[0]}: no answer in time")
        raise TopologyError("nym-api cannot be reached: " + "; ".join(failures), errno.ETIMEDOUT)

    def _get_all_from(self, base: BaseUrl, paths: Sequence[str]) -> dict[str, HttpAnswer]:
        def fetch(path: str) -> HttpAnswer | BaseException:
            try:
                return http_get(
                    base, path, timeout=self._timeout, ca_file=self._ca_file, addresses=self._addresses
                )
            except (OSError, WireError) as error:
                return error

        greenlets = [gevent.spawn(fetch, path) for path in paths]
        try:
            gevent.joinall(greenlets)
        finally:
            gevent.killall(greenlets, block=False)
        answers: dict[str, HttpAnswer] = {}
        for path, greenlet in zip(paths, greenlets, strict=True):
            answer = greenlet.value
            if not isinstance(answer, HttpAnswer):
                raise answer or OSError(errno.ETIMEDOUT, f"no answer to {path}")
            answers[path] = answer
        return answers
