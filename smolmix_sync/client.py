"""The message layer for programs that want messages instead of sockets: MixnetClient and IpMixStream."""

from __future__ import annotations

from dataclasses import dataclass

from smolmix_sync.address import Recipient
from smolmix_sync.config import TunnelConfig

__all__ = ["IpMixStream", "MixnetClient", "ReceivedMessage"]


@dataclass(frozen=True, slots=True)
class ReceivedMessage:
    """A message from the mixnet.

    Attributes:
        data: its content.
        sender_tag: what ``send_reply`` takes to answer; None if the sender sent no reply SURBs.
        is_reply: it came through one of our own reply SURBs.
    """

    data: bytes
    sender_tag: bytes | None
    is_reply: bool


class MixnetClient:
    """A client of the mixnet: messages to nym addresses, anonymous replies (nym-sdk's message layer)."""

    def __init__(self, config: TunnelConfig | None = None, **options: object) -> None:
        raise NotImplementedError

    @classmethod
    def connect_new(cls, **options: object) -> MixnetClient: ...  # type: ignore[empty-body]
    @property
    def nym_address(self) -> Recipient: ...  # type: ignore[empty-body]
    def connect(self, timeout: float | None = None) -> None: ...
    def send(self, recipient: Recipient | str, data: bytes, surbs: int = 10) -> None: ...
    def send_plain(self, recipient: Recipient | str, data: bytes) -> None: ...
    def send_reply(self, sender_tag: bytes, data: bytes) -> None: ...
    def receive(self, timeout: float | None = None) -> ReceivedMessage: ...  # type: ignore[empty-body]
    def disconnect(self, timeout: float = 10.0) -> None: ...


class IpMixStream:
    """A session with an exit's IP packet router: IP packets in and out, no TCP."""
