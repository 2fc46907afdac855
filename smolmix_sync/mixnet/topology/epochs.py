"""Epochs, the rewarded set, key rotation, and the health of nym-api.

Source: spec/topology.md sections 4 and 7.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from smolmix_sync.errors import WireError
from smolmix_sync.mixnet.strict_json import (
    JsonObject,
    check_array,
    compact,
    load_object_untrusted,
    load_untrusted,
    nested,
)
from smolmix_sync.mixnet.topology.fields import MAX_NODES
from smolmix_sync.mixnet.topology.timestamps import Timestamp
from smolmix_sync.mixnet.topology.topology import RewardedSet

__all__ = [
    "Health",
    "Interval",
    "KeyRotationInfo",
    "decode_epoch_untrusted",
    "decode_rewarded_set_untrusted",
    "encode_epoch",
    "encode_rewarded_set",
    "rewarded_set_from_json_untrusted",
    "rewarded_set_to_json",
]

#: Ours: no body here is near this.
_MAX_BODY = 4 << 20

_ROLES = ("entry_gateways", "exit_gateways", "layer1", "layer2", "layer3", "standby")


def _duration_untrusted(fields: JsonObject) -> tuple[int, int]:
    """Return seconds and nanoseconds."""
    return fields.u64("secs"), fields.integer("nanos", 0, 999_999_999)


@dataclass(frozen=True, slots=True)
class Interval:
    """One epoch within its interval."""

    interval_id: int
    epochs_in_interval: int
    current_epoch_start: Timestamp
    current_epoch_id: int
    epoch_seconds: int
    epoch_nanos: int
    total_elapsed_epochs: int

    @classmethod
    def decode_untrusted(cls, fields: JsonObject) -> Interval:
        """Read the object.

        Raises:
            WireError: a field is missing or of the wrong type.
        """
        return cls(
            fields.u32("id"),
            fields.u32("epochs_in_interval"),
            Timestamp.parse_rfc3339_untrusted(fields.text("current_epoch_start")),
            fields.u32("current_epoch_id"),
            *_duration_untrusted(fields.object("epoch_length")),
            fields.u32("total_elapsed_epochs"),
        )

    def to_json(self) -> dict[str, object]:
        """Return the JSON object."""
        return {
            "id": self.interval_id,
            "epochs_in_interval": self.epochs_in_interval,
            "current_epoch_start": self.current_epoch_start.rfc3339(),
            "current_epoch_id": self.current_epoch_id,
            "epoch_length": {"secs": self.epoch_seconds, "nanos": self.epoch_nanos},
            "total_elapsed_epochs": self.total_elapsed_epochs,
        }


def decode_epoch_untrusted(body: str | bytes) -> Interval | None:
    """Read the body of ``v1/epoch/current``.

    Raises:
        WireError: neither an interval nor null.
    """
    value = load_untrusted(body, _MAX_BODY)
    return None if value is None else Interval.decode_untrusted(JsonObject(value))


def encode_epoch(interval: Interval | None) -> str:
    """Return the body of ``v1/epoch/current``."""
    return compact(None if interval is None else interval.to_json())


def rewarded_set_from_json_untrusted(fields: JsonObject, *, epoch_required: bool) -> RewardedSet:
    """Read a rewarded set; in nym-api's answer the epoch may be absent, in network.json it may not.

    Raises:
        WireError: a list is missing, or an id is no 32-bit integer.
    """
    epoch_id = fields.u32("epoch_id") if epoch_required else fields.u32("epoch_id", 0)
    return RewardedSet(epoch_id, *(_ids_untrusted(fields, role) for role in _ROLES))


def _ids_untrusted(fields: JsonObject, role: str) -> tuple[int, ...]:
    ids = check_array(fields.value(role), role, MAX_NODES)
    if not all(type(node_id) is int and 0 <= node_id <= 0xFFFF_FFFF for node_id in ids):
        raise WireError(f"field {role!r} has something else than node ids")
    return tuple(ids)


def rewarded_set_to_json(rewarded_set: RewardedSet) -> dict[str, Any]:
    """Return the JSON object."""
    fields: dict[str, Any] = {"epoch_id": rewarded_set.epoch_id}
    fields.update((role, list(getattr(rewarded_set, role))) for role in _ROLES)
    return fields


def decode_rewarded_set_untrusted(body: str | bytes) -> RewardedSet:
    """Read the body of ``v1/nym-nodes/rewarded-set``.

    Raises:
        WireError: not JSON, a list is missing, or an id is no 32-bit integer.
    """
    return rewarded_set_from_json_untrusted(load_object_untrusted(body, _MAX_BODY), epoch_required=False)


def encode_rewarded_set(rewarded_set: RewardedSet) -> str:
    """Return the body of ``v1/nym-nodes/rewarded-set``."""
    return compact(rewarded_set_to_json(rewarded_set))


@dataclass(frozen=True, slots=True)
class KeyRotationInfo:
    """When nodes change their Sphinx keys, and where in that the network stands.

    Rotation *r* spans the epochs ``initial + validity * r`` to ``... + validity - 1``.
    Source: spec/topology.md sections 4 and 7.
    """

    validity_epochs: int
    initial_epoch_id: int
    current_absolute_epoch_id: int
    current_epoch_start: Timestamp
    epoch_seconds: int
    epoch_nanos: int = 0

    @classmethod
    def decode_untrusted(cls, body: str | bytes) -> KeyRotationInfo:
        """Read the body of ``v1/epoch/key-rotation-info``.

        The ``progress`` it carries must be there but is computed, not believed.

        Raises:
            WireError: a field is missing or of the wrong type, or a length is 0.
        """
        return cls.from_json_untrusted(load_object_untrusted(body, _MAX_BODY))

    @classmethod
    def from_json_untrusted(cls, fields: JsonObject) -> KeyRotationInfo:
        """Read the object.

        Raises:
            WireError: a field is missing or of the wrong type, or a length is 0.
        """
        state, progress = fields.object("key_rotation_state"), fields.object("progress")
        for name in ("current_key_rotation_id", "current_rotation_starting_epoch"):
            progress.u32(name)
        progress.u32("current_rotation_ending_epoch")
        info = cls(
            state.integer("validity_epochs", 1, 0xFFFF_FFFF),
            state.u32("initial_epoch_id"),
            fields.u32("current_absolute_epoch_id"),
            Timestamp.parse_rfc3339_untrusted(fields.text("current_epoch_start")),
            *_duration_untrusted(fields.object("epoch_duration")),
        )
        if info.epoch_duration <= 0:
            raise WireError("epochs have no length")
        return info

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object."""
        rotation = self.current_rotation_id
        start = self.rotation_start_epoch(rotation)
        return {
            "key_rotation_state": {
                "validity_epochs": self.validity_epochs,
                "initial_epoch_id": self.initial_epoch_id,
            },
            "current_absolute_epoch_id": self.current_absolute_epoch_id,
            "current_epoch_start": self.current_epoch_start.rfc3339(),
            "epoch_duration": {"secs": self.epoch_seconds, "nanos": self.epoch_nanos},
            "progress": {
                "current_key_rotation_id": rotation,
                "current_rotation_starting_epoch": start,
                "current_rotation_ending_epoch": start + self.validity_epochs - 1,
            },
        }

    def encode(self) -> str:
        """Return the body of ``v1/epoch/key-rotation-info``."""
        return compact(self.to_json())

    @property
    def epoch_duration(self) -> float:
        """The length of an epoch, seconds."""
        return self.epoch_seconds + self.epoch_nanos / 1e9

    @property
    def rotation_duration(self) -> float:
        """How long one rotation lasts, seconds."""
        return self.validity_epochs * self.epoch_duration

    @property
    def current_rotation_id(self) -> int:
        """The rotation of the epoch the answer describes."""
        return self.rotation_of(self.current_absolute_epoch_id)

    def rotation_of(self, absolute_epoch_id: int) -> int:
        """Return the rotation an epoch belongs to; epochs before the first belong to 0."""
        return max(0, absolute_epoch_id - self.initial_epoch_id) // self.validity_epochs

    def rotation_start_epoch(self, rotation_id: int) -> int:
        """Return the first epoch of a rotation."""
        return self.initial_epoch_id + self.validity_epochs * rotation_id

    def expected_epoch(self, unix_now: float) -> int:
        """Return the epoch the clock says it is, if none was late."""
        elapsed = (unix_now - self.current_epoch_start.unix) // self.epoch_duration
        return max(0, self.current_absolute_epoch_id + int(elapsed))

    def epoch_start(self, absolute_epoch_id: int) -> float:
        """Return the Unix time an epoch is expected to start."""
        ahead = absolute_epoch_id - self.current_absolute_epoch_id
        return self.current_epoch_start.unix + ahead * self.epoch_duration

    def expected_rotation(self, unix_now: float) -> int:
        """Return the rotation the clock says it is."""
        return self.rotation_of(self.expected_epoch(unix_now))

    def expected_rotation_start(self, unix_now: float) -> float:
        """Return the Unix time the current rotation is expected to have started."""
        return self.epoch_start(self.rotation_start_epoch(self.expected_rotation(unix_now)))

    def next_rotation(self, unix_now: float) -> float:
        """Return the Unix time the next rotation is expected to start."""
        return self.epoch_start(self.rotation_start_epoch(self.expected_rotation(unix_now) + 1))


_CHAIN_STATES = ("synced", "unknown")


@dataclass(frozen=True, slots=True)
class Health:
    """The body of ``v1/api-status/health``; *stalled* names how far behind the chain is, if it is."""

    status: str = "up"
    chain_status: str = "synced"
    uptime: int = 0
    stalled: str | None = None

    @classmethod
    def decode_untrusted(cls, body: str | bytes) -> Health:
        """Read the body.

        Raises:
            WireError: a field is missing or of the wrong type.
        """
        fields = load_object_untrusted(body, _MAX_BODY)
        chain, stalled = fields.value("chain_status"), None
        if not isinstance(chain, str):
            stalled = nested(chain, "chain_status").object("stalled").text("approximate_amount")
            chain = "stalled"
        elif chain not in _CHAIN_STATES:
            raise WireError("unknown state of the chain")
        return cls(fields.text("status"), chain, fields.u64("uptime"), stalled)

    def encode(self) -> str:
        """Return the body."""
        chain: object = self.chain_status
        if self.stalled is not None:
            chain = {"stalled": {"approximate_amount": self.stalled}}
        return compact({"status": self.status, "chain_status": chain, "uptime": self.uptime})
