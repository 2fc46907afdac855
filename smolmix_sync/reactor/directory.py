"""The directory of the network as a tunnel needs it: fetched, kept fresh, cached, or pinned by a file.

Source: spec/topology.md; design.md section 8a (bootstrap traffic, set-up budget).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Collection
from pathlib import Path
from urllib.parse import urlsplit

from smolmix_sync.address import Recipient
from smolmix_sync.config import TunnelConfig
from smolmix_sync.errors import NoExit, TopologyError, WireError
from smolmix_sync.mixnet.topology import Node, Topology
from smolmix_sync.mixnet.topology.cache import decode_cache_untrusted, encode_cache
from smolmix_sync.mixnet.topology.chance import weighted_order
from smolmix_sync.mixnet.topology.fetch import Directory, DirectoryFetch
from smolmix_sync.mixnet.topology.network_json import decode_network_untrusted
from smolmix_sync.mixnet.topology.refresh import TopologyRefresher
from smolmix_sync.mixnet.topology.selection import Exit, choose_exits, entry_candidates, explicit_exit
from smolmix_sync.reactor._originals import monotonic
from smolmix_sync.reactor._real import is_public
from smolmix_sync.reactor.log import ReactorLogger
from smolmix_sync.reactor.nymapi import NymApi, is_loopback

__all__ = ["DirectoryClient"]

_LOG = ReactorLogger("reactor.directory")

#: Ours: rounds of requests before the directory counts as inconsistent; an epoch may change in between.
_ROUNDS = 2
#: From the specification: gateways refuse to authenticate a client whose clock differs by more.
_MAX_CLOCK_SKEW = 120.0
#: Ours: seconds between two tries while the last directory has become too old to be used.
_WITHOUT = 10.0


class DirectoryClient:
    """Knows the nodes of the network. Reactor greenlets only.

    Args:
        config: names the API, or a file.
    """

    def __init__(self, config: TunnelConfig) -> None:
        self._config = config
        try:
            self._api = NymApi(
                config.nym_api,
                timeout=config.nym_api_timeout,
                ca_file=str(config.bootstrap_ca_file) if config.bootstrap_ca_file else None,
                addresses=config.bootstrap_addresses,
            )
        except ValueError as error:
            raise TopologyError(f"nym_api: {error}") from None
        self._refresher = TopologyRefresher(
            interval=config.topology_refresh, refresh=config.topology_file is None
        )
        self._pinned: Topology | None = None
        self._told_skew = False

    @property
    def is_local(self) -> bool:
        """Whether this is a network of our own: then its nodes may be at addresses that are not of the internet.

        The user says so by a topology file, or by a nym-api that is itself at such an address. A directory of the
        internet that names gateways in our own network would have us knock at its doors.
        """
        config = self._config
        if config.topology_file is not None:
            return True
        for url in config.nym_api:
            host = (urlsplit(url).hostname or "").lower()
            host = (config.bootstrap_addresses or {}).get(host, host)
            try:
                local = not is_public(host)
            except ValueError:
                local = is_loopback(host)
            if local:
                return True
        return False

    # --- fetching ---

    def refresh(self, now: float) -> Topology:
        """Fetch the directory and return its topology; blocks the greenlet.

        Raises:
            TopologyError: it cannot be had, or no routes can be chosen in it; the last good one is kept.
        """
        if self._config.topology_file is not None:
            if self._pinned is None:
                self._pinned = self._read_file(self._config.topology_file)
            return self._pinned
        try:
            directory = self._fetch()
        except TopologyError:
            cached = self._read_cache() if self._refresher.directory is None else None
            if cached is None:
                self._refresher.failed(now)
                raise
            _LOG.warning("nym-api cannot be reached; starting from the cached topology")
            self._refresher.succeeded(cached, now)
            return cached.topology
        self._refresher.succeeded(directory, now)
        self._write_cache(directory)
        return directory.topology

    def _fetch(self) -> Directory:
        # Whatever nym-api does, gateway and exit shall have their part of the time.
        limit = self._config.connect_timeout / 2
        failure = TopologyError("nym-api has no URL")
        for _ in range(max(_ROUNDS, len(self._api))):
            fetch = DirectoryFetch(minimum_performance=self._config.minimum_performance)
            until = monotonic() + limit
            try:
                while pending := fetch.pending():
                    # One limit for all pages: there may be a thousand.
                    left = max(0.01, until - monotonic())
                    for path, answer in self._api.get_all(pending, timeout=left).items():
                        fetch.receive_untrusted(path, answer.body, answer.content_type)
            except WireError as error:
                failure = TopologyError(f"nym-api's answers make no sense: {error}")
            else:
                try:
                    directory = fetch.result()
                except WireError as error:
                    failure = TopologyError(f"nym-api's answers make no sense: {error}")
                except TopologyError as error:
                    failure = error
                else:
                    self._tell_skew()
                    return directory
            self._api.demote()
        raise failure

    def _tell_skew(self) -> None:
        skew, told = self.clock_skew, self._told_skew
        self._told_skew = bool(skew)
        if skew and not told:
            _LOG.warning("%s", skew)

    @property
    def clock_skew(self) -> str:
        """A sentence if nym-api's clock says that ours is too far off for gateways; "" if all is well."""
        ahead = self._api.ahead
        if ahead is None or abs(ahead) <= _MAX_CLOCK_SKEW:
            return ""
        where = "ahead of" if ahead > 0 else "behind"
        return f"clock skew: the clock of this machine is {abs(ahead):.0f} s {where} nym-api's"

    def next_refresh_in(self, now: float) -> float:
        """Return the seconds until the next refresh is due; few while nothing is known and nothing can be sent."""
        if self.topology is None:
            return min(_WITHOUT, self._config.topology_refresh)
        deadline = self._refresher.next_deadline()
        return max(1.0, deadline - now) if deadline is not None else self._config.topology_refresh

    @property
    def topology(self) -> Topology | None:
        """What is known; None before the first success and after too many failures."""
        if self._pinned is not None:
            return self._pinned
        directory = self._refresher.directory
        return directory.topology if directory is not None else None

    # --- choosing ---

    def gateways(self, exclude: Collection[bytes]) -> list[Node]:
        """Return the entry gateways in random order, those in *exclude* last."""
        topology = self.topology
        if topology is None:
            return []
        nodes = entry_candidates(
            topology,
            force_tls=self._config.force_tls,
            minimum_performance=self._config.minimum_performance,
        )
        shuffled = weighted_order(nodes, [1] * len(nodes), os.urandom)
        return sorted(shuffled, key=lambda node: node.identity in exclude)

    def exits(self) -> list[Exit]:
        """Return the exits to try, in order.

        Raises:
            NoExit: none fits.
        """
        topology = self.topology
        if topology is None:
            raise NoExit("no directory")
        return choose_exits(topology, os.urandom, minimum_performance=self._config.minimum_performance)

    def exit_at(self, address: Recipient) -> Exit:
        """Return the exit at *address*.

        Raises:
            NoExit: its gateway is not in the directory.
        """
        topology = self.topology
        if topology is None:
            raise NoExit("no directory")
        return explicit_exit(address, topology)

    # --- files ---

    @staticmethod
    def _read_file(path: Path) -> Topology:
        try:
            topology = decode_network_untrusted(path.read_bytes())
            topology.check_routable()
        except (OSError, WireError) as error:
            raise TopologyError(f"topology_file {path}: {error}") from None
        return topology

    def _cache_path(self) -> Path | None:
        urls = self._config.nym_api
        if any(is_loopback(urlsplit(url).hostname or "") for url in urls):
            return None  # a localnet is another network every time
        base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        name = hashlib.sha256("\n".join(urls).encode()).hexdigest()[:16]
        return Path(base) / "smolmix_sync" / f"topology-{name}.json"

    def _read_cache(self) -> Directory | None:
        path = self._cache_path()
        if path is None:
            return None
        try:
            return decode_cache_untrusted(path.read_bytes(), time.time())
        except (OSError, WireError):
            return None

    def _write_cache(self, directory: Directory) -> None:
        path = self._cache_path()
        if path is None:
            return
        # A cache: a disk that is full or read-only is no reason to fail.
        with contextlib.suppress(OSError):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            temporary = path.with_suffix(f".{os.getpid()}")
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with open(descriptor, "w") as file:
                file.write(encode_cache(directory, time.time()))
            temporary.replace(path)
