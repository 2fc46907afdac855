"""Notes what arrives at our sessions, one JSON object a line; imported by every Python that finds it on its path.

Does nothing unless ``RECORD_WIRE`` names a folder. Then every process of a network writes what its gateway
sessions, message layers and IPR sessions are handed, with the keys that open it, to a file of its own there.
:mod:`support.record_bytes` sets both variables, for networks whose keys are worth nothing, and reads the files.
"""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Callable
from typing import Any

#: Octets noted of every link between nodes, some packets.
_LINK_LIMIT = 8000


def _install(folder: str) -> None:
    from smolmix_sync.ipr import IpPacketRouter, IprClient
    from smolmix_sync.mixnet import client as mixnet_client
    from smolmix_sync.mixnet.gateway.client import GatewayClient
    from smolmix_sync.mixnet.gateway.server import GatewayServerSession
    from smolmix_sync.mixnet.noise import NoiseLink
    from smolmix_sync.mixnet.replies import ReplyKeys
    from smolmix_sync.mixnet.sphinx import FrameDecoder

    path = os.path.join(folder, f"{os.getpid()}.jsonl")
    file: Any = None

    def note(event: str, **fields: Any) -> None:
        nonlocal file
        if file is None:
            file = open(path, "a", buffering=1)  # noqa: SIM115 - as long as the process
        values = {name: v.hex() if isinstance(v, (bytes, bytearray)) else v for name, v in fields.items()}
        file.write(json.dumps({"event": event, **values}) + "\n")

    def before(owner: Any, name: str, look: Callable[..., None]) -> None:
        """Call *look* with the arguments of every call of ``owner.name``, then go on."""
        original = getattr(owner, name)

        @functools.wraps(original)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            look(*args, **kwargs)
            return original(*args, **kwargs)

        setattr(owner, name, wrapper)

    def message(data: str | bytes) -> dict[str, Any]:
        return {"text": data} if isinstance(data, str) else {"hex": data}

    def from_gateway(session: Any, data: str | bytes, now: float) -> None:
        handshake = session._handshake
        keys = {"shared_key": session._key or (handshake.shared_key if handshake else None)}
        if handshake is not None:
            keys |= {
                "identity_seed": session._seed,
                "gateway_identity": session._gateway,
                "private": handshake._private,
                "salt": handshake._salt,
            }
        note("from_gateway", state=session.state.value, **message(data), **keys)

    def from_client(session: Any, data: str | bytes, now: float) -> None:
        record = session._clients.records.get(session._address) if session._address else None
        keys = {"shared_key": record.shared_key if record is not None else None}
        if session._handshake is not None:
            keys |= {"private": session._recorded[0], "init": session._recorded[1]}
        note(
            "from_client", session=id(session), state=session.state.value, seed=session._seed,
            **message(data), **keys,
        )  # fmt: skip

    def registration(session: Any, request: Any, now: float) -> None:
        drawn: list[bytes] = []
        original = session._urandom

        def urandom(size: int) -> bytes:
            drawn.append(original(size))
            session._recorded = (drawn[0], request.data)
            return drawn[-1]

        session._urandom = urandom

    def known_key(session: Any, request: Any, now: float) -> None:
        record = session._clients.records.get(request.client_identity)
        if record is not None:
            note("authentication", client=request.client_identity, shared_key=record.shared_key)

    def payload(core: Any, data: bytes, now: float) -> None:
        keys = core._keys
        note("payload", hex=data, ack_key=keys.ack_key, encryption_private=keys.encryption_private)

    original_pop = ReplyKeys.pop

    def pop(keys: Any, digest: bytes, now: float) -> Any:
        key = original_pop(keys, digest, now)
        if key is not None:
            note("reply_key", digest=digest, reply_key=key.key)
        return key

    heard: dict[int, tuple[Any, int]] = {}

    def beginning(link: Any, data: bytes) -> bytes | None:
        """Return *data* if it belongs to the first octets of *link*, which is kept so that its id stays its own."""
        _, octets = heard.get(id(link), (link, 0))
        heard[id(link)] = (link, octets + len(data))
        return bytes(data) if octets < _LINK_LIMIT else None

    def from_link(link: Any, data: bytes) -> None:
        if (octets := beginning(link, data)) is not None:
            keys = {"static": link._static, "ephemeral": link._ephemeral}
            if link.is_initiator:
                keys["responder"] = link.remote_static
            note("noise", link=id(link), initiator=link.is_initiator, hex=octets, **keys)

    def from_decoder(decoder: Any, data: bytes) -> None:
        if (octets := beginning(decoder, data)) is not None:
            note("frames", link=id(decoder), hex=octets)

    def decode(data: bytes) -> None:
        note("message", hex=data)

    before(NoiseLink, "receive_data", from_link)
    before(FrameDecoder, "receive_data", from_decoder)
    before(GatewayClient, "receive_data", from_gateway)
    before(GatewayServerSession, "receive_data", from_client)
    before(GatewayServerSession, "_begin_registration", registration)
    before(GatewayServerSession, "_authenticate", known_key)
    before(mixnet_client.MixnetCore, "receive_data", payload)
    before(mixnet_client, "decode_message_untrusted", decode)
    before(IprClient, "receive_data", lambda ipr, data, now: note("from_exit", hex=data, version=ipr.version))
    before(IpPacketRouter, "receive_data", lambda ipr, data, tag, now: note("to_exit", hex=data))
    ReplyKeys.pop = pop  # type: ignore[method-assign]

    try:
        from smolmix_sync.localnet.sphinxnode import SphinxProgram
    except ImportError:
        return

    async def start(node: Any) -> None:
        note(
            "node",
            address=f"{node.config['address']}:{node.port('mix')}",
            private=node._keys[0].private,
        )
        await original_start(node)

    original_start = SphinxProgram.start
    SphinxProgram.start = start  # type: ignore[method-assign]


if "RECORD_WIRE" in os.environ and not any("pip" in argument for argument in sys.argv[:1]):
    _install(os.environ["RECORD_WIRE"])
