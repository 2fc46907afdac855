# ruff: noqa: RUF009 - _setting() is dataclasses.field()
"""Every setting of a tunnel: its default, its meaning and where it may come from.

A value is taken from the first place that has one: the argument, the environment
(``SMOLMIX_<NAME>``, and upstream's ``NYM_API``), the TOML file, the default.

Source: design.md section 6; research notes on the wasm client for the camelCase names.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from smolmix_sync._config_values import (
    read_between,
    read_boolean,
    read_ipr_version,
    read_name_to_address,
    read_number,
    read_one_of,
    read_path,
    read_resolver,
    read_seconds,
    read_seconds_or_zero,
    read_text,
    read_urls,
)
from smolmix_sync.errors import SmolmixError

__all__ = [
    "MAINNET_NYM_APIS",
    "PROFILES",
    "ConfigError",
    "Setting",
    "TrafficProfile",
    "TunnelConfig",
    "process_overrides",
    "set_process_overrides",
    "settings",
]

_T = TypeVar("_T")

#: nym-api of the main network, in the order in which they are tried.
#: Source: spec/topology.md section 1 (the middle one is reached without domain fronting here).
MAINNET_NYM_APIS = (
    "https://validator.nymtech.net/api/",
    "https://nym-frontdoor.global.ssl.fastly.net/api/",
    "https://cdn1.media-platform.net/api/",
)


class ConfigError(SmolmixError, ValueError):
    """A setting has a value it cannot have; the message names the setting and where it came from."""

    default_errno = 22  # EINVAL


@dataclass(frozen=True, slots=True)
class TrafficProfile:
    """How packets leave: the pace, the cover and the delays asked of the mix nodes.

    Attributes:
        poisson: send at exponentially spaced slots; False sends as soon as there is something.
        cover: send loop cover traffic, at idle slots and as a stream of its own.
        sending_delay: mean gap between two send slots, seconds.
        cover_delay: mean gap of the loop cover stream, seconds.
        packet_delay: mean delay asked of each mix node for a data packet, seconds.
        ack_delay: the same for acknowledgements.
    """

    poisson: bool = True
    cover: bool = True
    sending_delay: float = 0.020
    cover_delay: float = 0.200
    packet_delay: float = 0.015
    ack_delay: float = 0.015


#: Named traffic profiles; a setting given beside the profile overrides the profile's value.
#: Source: design.md section 6; spec/message-layer.md 11.6 and 14 for the figures.
PROFILES: Mapping[str, TrafficProfile] = {
    "default": TrafficProfile(),
    "high-traffic": TrafficProfile(
        sending_delay=0.004, cover_delay=2000.0, packet_delay=0.010, ack_delay=0.010
    ),
    "no-cover": TrafficProfile(poisson=False, cover=False),
}


# --- the settings -----------------------------------------------------------------------------


def _setting(
    default: _T,
    doc: str,
    parse: Callable[[object], Any],
    *,
    env: tuple[str, ...] = (),
    wasm: str | None = None,
    wasm_ms: str | None = None,
    secret: bool = False,
) -> _T:
    """Describe one field: its default, its documentation, its parser and its other names."""
    metadata = {"doc": doc, "parse": parse, "env": env, "wasm": wasm, "wasm_ms": wasm_ms}
    return dataclasses.field(default=default, repr=not secret, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class TunnelConfig:
    """All settings of one tunnel; immutable. :func:`settings` lists them with their documentation.

    Every field accepts its own type or the text that would stand in the environment;
    a value that makes no sense raises :class:`ConfigError` at construction.
    Seconds everywhere, octets for sizes.
    """

    # Bootstrap: the only clear traffic.
    nym_api: tuple[str, ...] = _setting(
        MAINNET_NYM_APIS,
        "nym-api base URLs, tried in order; plain http is accepted for loopback only.",
        read_urls,
        env=("NYM_API",),
        wasm="nymApiUrl",
    )
    nym_api_timeout: float = _setting(10.0, "Seconds for one request to one nym-api URL.", read_seconds)
    bootstrap_addresses: Mapping[str, str] | None = _setting(
        None,
        "name=address pairs for the hosts of nym-api and gateway, instead of the system resolver.",
        read_name_to_address,
    )
    bootstrap_ca_file: Path | None = _setting(
        None,
        "PEM file of the authorities trusted for nym-api, wss and DNS over HTTPS, instead of the system's.",
        read_path,
    )
    topology_file: Path | None = _setting(
        None, "A network.json that pins the topology; nym-api is then not asked for nodes.", read_path
    )
    topology_refresh: float = _setting(300.0, "Seconds between two refreshes of the topology.", read_seconds)
    minimum_performance: int = _setting(
        50, "Nodes below this percentage of performance are not used.", read_between(0, 100)
    )

    # Entry gateway and identity.
    preferred_gateway: str | None = _setting(
        None,
        "Identity key (base58) of the entry gateway to use; any other is refused.",
        read_text,
        wasm="preferredGateway",
    )
    force_tls: bool = _setting(
        False,
        "Connect to the gateway by wss only; gateways without it are skipped.",
        read_boolean,
        wasm="forceTls",
    )
    gateway_timeout: float = _setting(10.0, "Seconds to connect to a gateway and authenticate.", read_seconds)
    gateway_ping_interval: float = _setting(30.0, "Seconds between two pings of the gateway.", read_seconds)
    gateway_pong_timeout: float = _setting(
        10.0, "Seconds to wait for a pong before the link counts as lost.", read_seconds
    )
    client_id: str | None = _setting(
        None,
        "Keep the identity under this name between runs; None makes a new one every time.",
        read_text,
        wasm="clientId",
    )
    storage_path: Path | None = _setting(
        None,
        "Folder of kept identities; None is $XDG_DATA_HOME/smolmix_sync or ~/.local/share/smolmix_sync.",
        read_path,
    )
    storage_passphrase: str | None = _setting(
        None, "Seals the kept identity with a passphrase.", read_text, wasm="storagePassphrase", secret=True
    )

    # Exit.
    ipr_address: str | None = _setting(
        None,
        "Nym address of the exit (IP packet router); None chooses one and rotates.",
        read_text,
        wasm="preferredIpr",
    )
    ipr_version: int | None = _setting(
        None,
        "IPR protocol 8, 9 or 10, or a node version such as 1.37.0; None asks the directory.",
        read_ipr_version,
    )
    ipr_timeout: float = _setting(
        20.0, "Seconds given to one exit to connect and to answer the probe.", read_seconds
    )
    exit_memory: Path | None = _setting(
        None,
        "File that remembers exits found dead; None: one beside the cached topology; /dev/null: none.",
        read_path,
    )
    resequence_hold: float = _setting(
        0.06,
        "Seconds a message that arrived early waits for the ones before it; 0 never waits.",
        read_seconds_or_zero,
    )
    keepalive_interval: float = _setting(
        25.0,
        "Seconds without a packet of ours after which one is sent; exits forget us after 60.",
        read_seconds,
    )

    # Traffic policy.
    profile: str = _setting(
        "default", "Traffic profile: default, high-traffic or no-cover.", read_one_of(*PROFILES)
    )
    disable_poisson_traffic: bool | None = _setting(
        None, "Send at once instead of at Poisson slots; None: as the profile says.", read_boolean,
        wasm="disablePoissonTraffic",
    )  # fmt: skip
    disable_cover_traffic: bool | None = _setting(
        None,
        "No stream of loop cover packets; None: as the profile says.",
        read_boolean,
        wasm="disableCoverTraffic",
    )
    sending_delay: float | None = _setting(
        None, "Mean seconds between two send slots; None: as the profile says.", read_seconds
    )
    cover_delay: float | None = _setting(
        None, "Mean seconds between two loop cover packets; None: as the profile says.", read_seconds
    )
    packet_delay: float | None = _setting(
        None, "Mean seconds a mix node holds a data packet; None: as the profile says.", read_seconds_or_zero
    )
    ack_delay: float | None = _setting(
        None,
        "Mean seconds a mix node holds an acknowledgement; None: as the profile says.",
        read_seconds_or_zero,
    )
    disable_retransmissions: bool = _setting(
        False, "Leave lost packets to TCP: the message layer sends nothing twice.", read_boolean
    )
    open_reply_surbs: int = _setting(
        17, "Reply SURBs sent with the connect request; more than 10, or the exit cannot answer.",
        read_between(11, 50), wasm="openReplySurbs",
    )  # fmt: skip
    data_reply_surbs: int = _setting(
        3, "Most reply SURBs attached to one data message; fewer when the exit has enough.",
        read_between(0, 50), wasm="dataReplySurbs",
    )  # fmt: skip
    surb_stock: int = _setting(
        200, "Reply SURBs kept at the exit when idle slots can carry them.", read_between(20, 200)
    )

    # IP.
    mtu: int | None = _setting(
        None, "Largest IP packet; None: what the exit says (v10), else 1420.", read_between(576, 1500)
    )
    tcp_buffer_size: int | None = _setting(
        None, "Octets of TCP buffer each way per socket; None: grows from 1 to 4 MiB.",
        read_between(4096, 1 << 26), wasm="tcpBufferSize",
    )  # fmt: skip
    tcp_keepalive: float | None = _setting(
        None, "Seconds of TCP keepalive of new sockets; None: off until SO_KEEPALIVE is set.", read_seconds,
        wasm_ms="tcpKeepaliveMs",
    )  # fmt: skip
    warn_plaintext: bool = _setting(
        False, "Log connects to classic clear-text ports (the exit reads them).", read_boolean
    )

    # Names.
    primary_dns: str = _setting(
        "1.1.1.1", "Resolver asked first, through the tunnel.", read_resolver, wasm="primaryDns"
    )
    fallback_dns: str = _setting(
        "8.8.8.8", "Resolver asked when the first fails.", read_resolver, wasm="fallbackDns"
    )
    dns_transport: str = _setting(
        "udp",
        "How the resolvers are asked: udp (TCP for long answers) or https (DNS over HTTPS, port 443 of the same addresses).",
        read_one_of("udp", "https"),
    )
    dns_timeout: float = _setting(
        30.0, "Seconds for one attempt at one resolver.", read_seconds, wasm_ms="dnsTimeoutMs"
    )
    hosts: str = _setting(
        "loopback",
        "Names answered from /etc/hosts: loopback (this machine's own only) or system (its other entries, too; "
        "where a connection may go does not depend on it).",
        read_one_of("loopback", "system"),
    )

    # Time.
    connect_timeout: float = _setting(
        60.0,
        "Seconds for the whole set-up, and for a connect without a timeout.",
        read_seconds,
        wasm_ms="connectTimeoutMs",
    )
    reconnect_grace: float = _setting(
        45.0, "Seconds a lost gateway link may last before every socket gets ENETDOWN.", read_seconds
    )
    exit_flush: float = _setting(
        10.0, "Seconds the end of the process waits for closed sockets' data.", read_seconds_or_zero
    )

    # The process.
    fork: str = _setting(
        "own",
        "A child's next use: own (a new tunnel and identity), parent (the parent's tunnel) or deny (ENETDOWN).",
        read_one_of("own", "parent", "deny"),
    )
    isolated_tunnels: int = _setting(
        8, "Tunnels that isolation keys may have beside the main one.", read_between(1, 1000)
    )
    warm_tunnels: int = _setting(
        0,
        "Tunnels begun ahead for isolation keys to come; each costs its cover traffic.",
        read_between(0, 100),
    )
    isolation_idle: float = _setting(
        300.0, "Seconds after which an isolation key's tunnel without sockets is shut down.", read_seconds
    )
    max_redirects: int = _setting(
        5, "Redirects followed by fetch.", read_between(0, 100), wasm="maxRedirects"
    )
    debug: bool = _setting(
        False, "Log to stderr at DEBUG level, a line for every IP packet of the tunnel included.", read_boolean,
        wasm="debug",
    )  # fmt: skip
    pcap: Path | None = _setting(
        None,
        "File for the IP packets inside the tunnel, for Wireshark; it has what connections carried.",
        read_path,
    )

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is not None or field.default is not None:
                object.__setattr__(self, field.name, _parsed(field.name, value, "argument"))

    # --- where a configuration comes from ---

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str] | None = None,
        *,
        environ: Mapping[str, str] | None = None,
        **arguments: object,
    ) -> TunnelConfig:
        """Merge every source: *arguments*, :func:`process_overrides`, environment, TOML file, defaults.

        Args:
            path: a TOML file; None takes ``SMOLMIX_CONFIG`` from the environment, if set.
            environ: the environment; None is ``os.environ``.
            arguments: fields by name; the value None means "not given".

        Raises:
            ConfigError: an unknown name, or a value that cannot be.
            OSError: the file cannot be read.
        """
        env = os.environ if environ is None else environ
        file = path if path is not None else env.get("SMOLMIX_CONFIG") or None
        values: dict[str, Any] = {}
        if file is not None:
            values.update(_from_toml(Path(file)))
        values.update(_from_environment(env))
        values.update(process_overrides())
        values.update(_canonical({name: v for name, v in arguments.items() if v is not None}, "argument"))
        return cls(**values)

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> TunnelConfig:
        """Read the environment, and the TOML file it names in ``SMOLMIX_CONFIG``."""
        return cls.load(environ=environ)

    @classmethod
    def from_file(
        cls, path: str | os.PathLike[str], *, environ: Mapping[str, str] | None = None
    ) -> TunnelConfig:
        """Read the TOML file *path*, at top level or in ``[tunnel]``; the environment wins over it."""
        return cls.load(path, environ=environ)

    @classmethod
    def from_dict(cls, options: Mapping[str, object]) -> TunnelConfig:
        """Build from *options* alone: field names, or the wasm client's camelCase ones (``...Ms`` too)."""
        return cls(**_canonical({name: v for name, v in options.items() if v is not None}, "option"))

    def replace(self, **changes: object) -> TunnelConfig:
        """Return a copy with *changes* (camelCase accepted)."""
        return dataclasses.replace(self, **_canonical(changes, "argument"))

    # --- what follows from the settings ---

    @property
    def traffic(self) -> TrafficProfile:
        """The profile with the single settings applied on top."""
        base = PROFILES[self.profile]
        return TrafficProfile(
            poisson=base.poisson
            if self.disable_poisson_traffic is None
            else not self.disable_poisson_traffic,
            cover=base.cover if self.disable_cover_traffic is None else not self.disable_cover_traffic,
            sending_delay=self.sending_delay or base.sending_delay,
            cover_delay=self.cover_delay or base.cover_delay,
            packet_delay=base.packet_delay if self.packet_delay is None else self.packet_delay,
            ack_delay=base.ack_delay if self.ack_delay is None else self.ack_delay,
        )


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting as documentation: for the manual, the command line and ``doctor``."""

    name: str
    default: object
    doc: str
    environment: tuple[str, ...]
    wasm_name: str | None
    secret: bool


def settings() -> Iterator[Setting]:
    """Yield every setting in the order of :class:`TunnelConfig`."""
    for field in dataclasses.fields(TunnelConfig):
        meta = field.metadata
        env = (f"SMOLMIX_{field.name.upper()}", *meta["env"])
        yield Setting(
            field.name, field.default, meta["doc"], env, meta["wasm"] or meta["wasm_ms"], not field.repr
        )


def _parsed(name: str, value: object, origin: str) -> Any:
    field = TunnelConfig.__dataclass_fields__[name]
    try:
        return field.metadata["parse"](value)
    except (ValueError, TypeError) as error:
        shown = "" if not field.repr else f", not {value!r}"
        raise ConfigError(f"{origin} {name}: {error}{shown}") from None


def _canonical(options: Mapping[str, object], origin: str) -> dict[str, Any]:
    """Return *options* under field names; milliseconds of the wasm names become seconds."""
    fields = TunnelConfig.__dataclass_fields__
    by_wasm = {f.metadata["wasm"]: f.name for f in fields.values() if f.metadata["wasm"]}
    by_wasm_ms = {f.metadata["wasm_ms"]: f.name for f in fields.values() if f.metadata["wasm_ms"]}
    result: dict[str, Any] = {}
    for name, value in options.items():
        if name in fields:
            result[name] = value
        elif name in by_wasm:
            result[by_wasm[name]] = value
        elif name in by_wasm_ms:
            result[by_wasm_ms[name]] = read_number(value) / 1000 if value is not None else None
        else:
            near = difflib.get_close_matches(name, [*fields, *by_wasm, *by_wasm_ms], 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ConfigError(f"unknown {origin} {name!r}{hint}")
    return result


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for item in settings():
        for variable in item.environment:
            text = environ.get(variable, "")
            if text.strip():
                values[item.name] = _parsed(item.name, text, f"environment variable {variable}, setting")
                break
    return values


def _from_toml(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            content = tomllib.load(file)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: {error}") from None
    table = content.get("tunnel", content)
    if not isinstance(table, dict):
        raise ConfigError(f"{path}: [tunnel] is not a table")
    return {
        name: _parsed(name, v, f"{path}: setting")
        for name, v in _canonical(table, f"{path}: setting").items()
    }


# --- the process -----------------------------------------------------------------------------

_overrides: dict[str, Any] = {}


def process_overrides() -> Mapping[str, Any]:
    """Return the settings that hold for every tunnel of this process, below arguments only."""
    return dict(_overrides)


def set_process_overrides(values: Mapping[str, object] | None) -> Mapping[str, Any]:
    """Replace the settings that hold for every tunnel of this process; return the previous ones.

    ``LocalNet`` points every tunnel of the process at itself with this, and puts the
    previous value back when it ends. They rank above the environment and below arguments.
    """
    global _overrides
    previous = _overrides
    _overrides = _canonical(values or {}, "override")
    return previous
