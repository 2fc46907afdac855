"""What the message_*.json vectors describe, as objects of the package."""

from __future__ import annotations

from typing import Any

from smolmix_sync.address import Recipient
from smolmix_sync.mixnet.message import (
    NymMessage,
    PlainMessage,
    RepliableContent,
    RepliableMessage,
    ReplyData,
    ReplySurb,
    SurbRequest,
)


def message_of(case: dict[str, Any]) -> NymMessage:
    """Build the message a vector describes."""
    kind, content = case["kind"], case.get("content")
    data = bytes.fromhex(case.get("data") or "")
    if kind == "plain":
        return PlainMessage(data)
    if kind == "repliable":
        surbs = [ReplySurb.decode_untrusted(bytes.fromhex(surb["bytes"])) for surb in case["surbs"]]
        rotation = case["surbs"][0]["key_rotation_byte"] if surbs else 0
        tag = bytes.fromhex(case["sender_tag"])
        return RepliableMessage(tag, RepliableContent[content.upper()], surbs, rotation, data)
    if content == "data":
        return ReplyData(data)
    return SurbRequest(Recipient.decode_untrusted(bytes.fromhex(case["recipient"])), int(case["amount"]))
