"""Names looked up in the tunnel by gevent's own functions: ``GEVENT_RESOLVER=smolmix_sync.ext.gevent.Resolver``.

For gevent programs that are not patched by this package; ``patch_all()`` needs none of it, before or after gevent's patch.
"""

from __future__ import annotations

from typing import Any

from gevent.resolver.thread import Resolver as _ThreadResolver

from smolmix_sync import dns

__all__ = ["Resolver"]


class Resolver(_ThreadResolver):
    """gevent's thread resolver with the tunnel's functions: a look-up waits in a native thread, the hub goes on."""

    def gethostbyname(self, *args: Any) -> str:
        """As ``socket.gethostbyname``."""
        return str(self.pool.apply(dns.gethostbyname, args))

    def gethostbyname_ex(self, *args: Any) -> Any:
        """As ``socket.gethostbyname_ex``."""
        return self.pool.apply(dns.gethostbyname_ex, args)

    def getaddrinfo(self, *args: Any, **kwargs: Any) -> Any:
        """As ``socket.getaddrinfo``."""
        return self.pool.apply(dns.raw_getaddrinfo, args, kwargs)

    def gethostbyaddr(self, *args: Any, **kwargs: Any) -> Any:
        """As ``socket.gethostbyaddr``."""
        return self.pool.apply(dns.gethostbyaddr, args, kwargs)

    def getnameinfo(self, *args: Any, **kwargs: Any) -> Any:
        """As ``socket.getnameinfo``."""
        return self.pool.apply(dns.getnameinfo, args, kwargs)
