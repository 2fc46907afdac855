"""What can go wrong between a request and its response, beyond what the socket raises.

Constructor parameters equal ``args``, as everywhere in the package: the errors survive pickling.
"""

from __future__ import annotations

import errno as _errno

from smolmix_sync.errors import SmolmixError

__all__ = ["BadResponse", "BodyTruncated", "FetchError", "HTTPStatusError", "RedirectError"]


class FetchError(SmolmixError):
    """A request failed above the transport; sockets, names and TLS raise their own errors."""

    default_errno = _errno.EPROTO


class BadResponse(FetchError):
    """The server's answer is not HTTP/1.1, or its content is not in the encoding it names."""


class BodyTruncated(FetchError):
    """The body ended before the length that was announced, or a TLS stream ended without its closing alert."""

    default_errno = _errno.ECONNRESET


class RedirectError(FetchError):
    """A redirect that is not followed: one too many, from https to http, or with a body that is gone."""

    default_errno = _errno.ELOOP


class HTTPStatusError(FetchError):
    """Raised by ``Response.raise_for_status`` for 400 and above."""
