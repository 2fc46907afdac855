"""JSON from the network, read as strictly as the reference's typed parser reads it.

The gateway's text messages and nym-api's answers share these readers. They do what serde does: integers
are integers (no ``true``, no ``1.0``), ranges are checked, duplicate keys and ``NaN`` are refused, unknown
fields are ignored by whoever does not ask for them.

Source: spec/gateway.md section 3; spec/topology.md section 4.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, Final, NoReturn, TypeVar

from smolmix_sync.errors import WireError

__all__ = [
    "JsonObject",
    "check_array",
    "check_octets",
    "check_text",
    "compact",
    "load_object_untrusted",
    "load_untrusted",
    "nested",
    "optional",
]

T = TypeVar("T")

#: Ours: no integer in these protocols has more digits, and parsing longer ones costs quadratic time.
_MAX_DIGITS: Final = 20
_SURROGATE = re.compile("[\ud800-\udfff]")


def _refuse_constant(name: str) -> NoReturn:
    raise WireError(f"{name} is not JSON")


def _parse_int(text: str) -> int:
    if len(text) > _MAX_DIGITS:
        raise WireError("integer has too many digits")
    return int(text)


def _parse_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise WireError("duplicate key in a JSON object")
    return result


_decoder = json.JSONDecoder(
    parse_constant=_refuse_constant, parse_int=_parse_int, object_pairs_hook=_parse_object
)


def load_untrusted(text: str | bytes, limit: int) -> Any:
    """Parse one JSON text of at most *limit* octets or characters.

    Raises:
        WireError: the text is too long, not UTF-8, or not JSON.
    """
    if len(text) > limit:
        raise WireError(f"JSON text of {len(text)} octets is longer than {limit}")
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8")
        return _decoder.decode(text)
    except WireError:
        raise
    except (ValueError, RecursionError) as exc:
        raise WireError("text is not JSON") from exc


def load_object_untrusted(text: str | bytes, limit: int) -> JsonObject:
    """Parse one JSON object of at most *limit* octets or characters.

    Raises:
        WireError: as :func:`load_untrusted`, or the value is not an object.
    """
    return JsonObject(load_untrusted(text, limit))


def compact(value: object) -> str:
    """Return *value* as the reference's serialiser writes it: no spaces, UTF-8 unescaped."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


class JsonObject:
    """Typed access to the fields of one JSON object; every method raises WireError only."""

    __slots__ = ("fields",)

    def __init__(self, value: object) -> None:
        if not isinstance(value, dict):
            raise WireError("value is not a JSON object")
        self.fields: dict[str, Any] = value

    def has(self, name: str) -> bool:
        """Tell whether the field is there and not null."""
        return self.fields.get(name) is not None

    def value(self, name: str, *aliases: str) -> Any:
        """Return a required field of any type, under its name or one alias."""
        found = [key for key in (name, *aliases) if key in self.fields]
        if len(found) != 1:
            raise WireError(f"field {name!r} is {'duplicated' if found else 'missing'}")
        return self.fields[found[0]]

    def integer(self, name: str, low: int, high: int, default: int | None = None) -> int:
        """Return an integer in ``low..high``; *default* if the field is absent (null is not absence)."""
        if default is not None and name not in self.fields:
            return default
        value = self.value(name)
        if type(value) is not int or not low <= value <= high:
            raise WireError(f"field {name!r} is not an integer in {low}..{high}")
        return value

    def u8(self, name: str, default: int | None = None) -> int:
        """Return an integer of 8 bits."""
        return self.integer(name, 0, 0xFF, default)

    def u16(self, name: str) -> int:
        """Return an integer of 16 bits."""
        return self.integer(name, 0, 0xFFFF)

    def u32(self, name: str, default: int | None = None) -> int:
        """Return an integer of 32 bits."""
        return self.integer(name, 0, 0xFFFF_FFFF, default)

    def u64(self, name: str) -> int:
        """Return an integer of 64 bits."""
        return self.integer(name, 0, 0xFFFF_FFFF_FFFF_FFFF)

    def i64(self, name: str) -> int:
        """Return a signed integer of 64 bits."""
        return self.integer(name, -(1 << 63), (1 << 63) - 1)

    def boolean(self, name: str, default: bool | None = None) -> bool:
        """Return a boolean; *default* if the field is absent."""
        if default is not None and name not in self.fields:
            return default
        value = self.value(name)
        if not isinstance(value, bool):
            raise WireError(f"field {name!r} is not a boolean")
        return value

    def text(self, name: str) -> str:
        """Return a string without lone surrogates."""
        return check_text(self.value(name), name)

    def octets(self, name: str, *aliases: str, limit: int) -> bytes:
        """Return a byte string written as an array of integers 0..255, at most *limit* long."""
        return check_octets(self.value(name, *aliases), name, limit)

    def array(self, name: str, limit: int) -> list[Any]:
        """Return an array of at most *limit* items."""
        return check_array(self.value(name), name, limit)

    def object(self, name: str) -> JsonObject:
        """Return a nested object."""
        return nested(self.value(name), name)


def check_text(value: object, name: str) -> str:
    """Return *value* if it is a string that can be written again.

    Raises:
        WireError: it is not.
    """
    if not isinstance(value, str):
        raise WireError(f"field {name!r} is not a string")
    if not value.isascii() and _SURROGATE.search(value):
        raise WireError(f"field {name!r} has a lone surrogate")
    return value


def check_array(value: object, name: str, limit: int) -> list[Any]:
    """Return *value* if it is an array of at most *limit* items.

    Raises:
        WireError: it is not.
    """
    if not isinstance(value, list):
        raise WireError(f"field {name!r} is not an array")
    if len(value) > limit:
        raise WireError(f"field {name!r} has {len(value)} items, more than {limit}")
    return value


def check_octets(value: object, name: str, limit: int) -> bytes:
    """Return the octets of an array of integers 0..255.

    Raises:
        WireError: *value* is something else or longer than *limit*.
    """
    items = check_array(value, name, limit)
    if not all(type(item) is int for item in items):
        raise WireError(f"field {name!r} is not an array of octets")
    try:
        return bytes(items)
    except ValueError as exc:
        raise WireError(f"field {name!r} is not an array of octets") from exc


def nested(value: object, name: str) -> JsonObject:
    """Return *value* as an object.

    Raises:
        WireError: it is none.
    """
    if not isinstance(value, dict):
        raise WireError(f"field {name!r} is not an object")
    return JsonObject(value)


def optional(fields: JsonObject, name: str, read: Callable[[str], T]) -> T | None:
    """Return ``read(name)``, or None if the field is null or absent."""
    return read(name) if fields.has(name) else None
