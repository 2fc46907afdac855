"""What an exit gives as reasons and notices, in every version.

Source: common/ip-packet-requests/src/{v6,v7,v8}/response.rs; spec/ipr.md sections 3 and 4.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, fields

from smolmix_sync.ipr.bincode import Reader, Writer

__all__ = [
    "BuildInfo",
    "ConnectFailure",
    "DisconnectFailure",
    "DynamicConnectFailure",
    "ExitPolicyFilterCheckFailed",
    "GenericInfo",
    "InfoLevel",
    "InfoReply",
    "LegacyDisconnectFailure",
    "Reason",
    "ReasonKind",
    "StaticConnectFailureV6",
    "StaticConnectFailureV7",
    "UnrequestedReason",
    "VersionMismatch",
    "read_info",
    "read_reason",
    "write_info",
    "write_reason",
]


class ReasonKind(enum.IntEnum):
    """Base of the failure enums. The last member of each is ``OTHER`` and carries a text."""

    def is_other(self) -> bool:
        """Tell whether this member carries a text."""
        return self.name == "OTHER"


class ConnectFailure(ReasonKind):
    """Why a v8 to v10 connect request failed."""

    CLIENT_ALREADY_CONNECTED = 0
    NO_AVAILABLE_IP = 1
    OTHER = 2


class DisconnectFailure(ReasonKind):
    """Why a v8 to v10 disconnect request failed."""

    CLIENT_NOT_CONNECTED = 0
    OTHER = 1


class UnrequestedReason(ReasonKind):
    """Why the exit disconnected us."""

    CLIENT_MIXNET_TRAFFIC_TIMEOUT = 0
    CLIENT_TUN_TRAFFIC_TIMEOUT = 1
    OTHER = 2


class StaticConnectFailureV6(ReasonKind):
    """Why a v6 static connect request failed."""

    REQUESTED_IP_ALREADY_IN_USE = 0
    REQUESTED_NYM_ADDRESS_ALREADY_IN_USE = 1
    OTHER = 2


class StaticConnectFailureV7(ReasonKind):
    """Why a v7 static connect request failed."""

    REQUESTED_IP_ALREADY_IN_USE = 0
    REQUESTED_NYM_ADDRESS_ALREADY_IN_USE = 1
    OUT_OF_DATE_TIMESTAMP = 2
    OTHER = 3


class DynamicConnectFailure(ReasonKind):
    """Why a v6 or v7 dynamic connect request failed."""

    REQUESTED_NYM_ADDRESS_ALREADY_IN_USE = 0
    NO_AVAILABLE_IP = 1
    OTHER = 2


class LegacyDisconnectFailure(ReasonKind):
    """Why a v6 or v7 disconnect request failed."""

    REQUESTED_NYM_ADDRESS_NOT_CONNECTED = 0
    OTHER = 1


# From the specification, where it differs from the member's name in lower case.
# By class too: members of different enums are equal when their numbers are.
_DISPLAY: dict[tuple[type[ReasonKind], ReasonKind], str] = {
    (ConnectFailure, ConnectFailure.CLIENT_ALREADY_CONNECTED): "client is already connected",
    (ConnectFailure, ConnectFailure.NO_AVAILABLE_IP): "no available ip address",
    (DisconnectFailure, DisconnectFailure.CLIENT_NOT_CONNECTED): "client is not connected",
}


@dataclass(frozen=True, slots=True)
class Reason:
    """One reason; ``text`` belongs to the kind ``OTHER`` alone."""

    kind: ReasonKind
    text: str = ""

    def __str__(self) -> str:
        if self.kind.is_other():
            return self.text
        return _DISPLAY.get((type(self.kind), self.kind)) or self.kind.name.lower().replace("_", " ")


def write_reason(writer: Writer, reason: Reason) -> None:
    """Append *reason*: its tag, and the text of OTHER."""
    writer.varint(reason.kind)
    if reason.kind.is_other():
        writer.string(reason.text)


def read_reason(reader: Reader, kind: type[ReasonKind]) -> Reason:
    """Return a reason out of the enum *kind*; raises WireError."""
    member = reader.member(kind)
    return Reason(member, reader.string() if member.is_other() else "")


class InfoLevel(enum.IntEnum):
    """How much a notice matters."""

    INFO = 0
    WARN = 1
    ERROR = 2


@dataclass(frozen=True, slots=True)
class GenericInfo:
    """A notice in words."""

    message: str

    def __str__(self) -> str:
        return self.message


@dataclass(frozen=True, slots=True)
class VersionMismatch:
    """The exit answered in another version than it was asked in."""

    request_version: int
    response_version: int

    def __str__(self) -> str:
        return f"version mismatch: request v{self.request_version}, response v{self.response_version}"


@dataclass(frozen=True, slots=True)
class ExitPolicyFilterCheckFailed:
    """A packet to ``destination`` ("ip:port" or "[v6]:port") was refused."""

    destination: str

    def __str__(self) -> str:
        return f"destination failed exit policy filter check: {self.destination}"


InfoReply = GenericInfo | VersionMismatch | ExitPolicyFilterCheckFailed


def write_info(writer: Writer, reply: InfoReply, level: InfoLevel) -> None:
    """Append a notice and its level."""
    if isinstance(reply, GenericInfo):
        writer.varint(0).string(reply.message)
    elif isinstance(reply, VersionMismatch):
        writer.varint(1).u8(reply.request_version).u8(reply.response_version)
    else:
        writer.varint(2).string(reply.destination)
    writer.varint(level)


def read_info(reader: Reader) -> tuple[InfoReply, InfoLevel]:
    """Return a notice and its level; raises WireError."""
    reply: InfoReply
    tag = reader.tag(3)
    if tag == 0:
        reply = GenericInfo(reader.string())
    elif tag == 1:
        reply = VersionMismatch(reader.u8(), reader.u8())
    else:
        reply = ExitPolicyFilterCheckFailed(reader.string())
    return reply, reader.member(InfoLevel)


@dataclass(frozen=True, slots=True)
class BuildInfo:
    """What an exit says about its own build, in the order of the wire."""

    binary_name: str = ""
    build_timestamp: str = ""
    build_version: str = ""
    commit_sha: str = ""
    commit_timestamp: str = ""
    commit_branch: str = ""
    rustc_version: str = ""
    rustc_channel: str = ""
    cargo_profile: str = ""
    cargo_triple: str = ""

    def write(self, writer: Writer) -> None:
        """Append the ten texts."""
        for field in fields(self):
            writer.string(getattr(self, field.name))

    @classmethod
    def read(cls, reader: Reader) -> BuildInfo:
        """Return the ten texts; raises WireError."""
        return cls(*[reader.string() for _ in fields(cls)])
