"""Readers of single settings: each takes a value of its own type, or the text that would stand in the environment.

Every reader raises ValueError with what it expected.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from smolmix_sync.nodeversion import IPR_V10_RELEASE, at_least, ipr_version_for

__all__ = [
    "read_between",
    "read_boolean",
    "read_ipr_version",
    "read_list_of_text",
    "read_name_to_address",
    "read_number",
    "read_one_of",
    "read_path",
    "read_resolver",
    "read_seconds",
    "read_seconds_or_zero",
    "read_text",
    "read_urls",
]


def read_text(value: object) -> str:
    """Read text, without the blanks around it."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError("expected text")
    return value.strip()


def read_boolean(value: object) -> bool:
    """Read true or false, in the usual words."""
    if isinstance(value, bool):
        return value
    word = str(value).strip().lower()
    if word in ("1", "true", "yes", "on"):
        return True
    if word in ("0", "false", "no", "off", ""):
        return False
    raise ValueError("expected true or false")


def read_number(value: object) -> float:
    """Read a number."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError("expected a number")
    return float(value)


def read_seconds(value: object) -> float:
    """Read a positive number of seconds."""
    number = read_number(value)
    if not 0 < number < float("inf"):
        raise ValueError("expected a positive number of seconds")
    return number


def read_seconds_or_zero(value: object) -> float:
    """Read a number of seconds, zero included."""
    number = read_number(value)
    if not 0 <= number < float("inf"):
        raise ValueError("expected zero or a positive number of seconds")
    return number


def read_between(low: int, high: int) -> Callable[[object], int]:
    """Return a reader of whole numbers from *low* to *high*."""

    def parse(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, (int, str)):
            raise ValueError("expected a whole number")
        number = int(value)
        if not low <= number <= high:
            raise ValueError(f"expected a whole number from {low} to {high}")
        return number

    return parse


def read_one_of(*words: str) -> Callable[[object], str]:
    """Return a reader of one of *words*."""

    def parse(value: object) -> str:
        if value not in words:
            raise ValueError("expected one of " + ", ".join(words))
        return str(value)

    return parse


def read_list_of_text(value: object) -> tuple[str, ...]:
    """Read texts, separated by commas or blanks."""
    parts = value.replace(",", " ").split() if isinstance(value, str) else value
    if not isinstance(parts, (list, tuple)) or not all(isinstance(part, str) and part for part in parts):
        raise ValueError("expected a list of texts")
    return tuple(parts)


def read_urls(value: object) -> tuple[str, ...]:
    """Read http(s) URLs, at least one."""
    urls = read_list_of_text(value)
    if not urls or not all(re.match(r"https?://[^/\s]", url) for url in urls):
        raise ValueError("expected one or more http(s) URLs")
    return urls


def read_resolver(value: object) -> str:
    """Read the address of a resolver; port 53 may be named."""
    # The wasm client writes "8.8.8.8:53"; no other port is spoken.
    text = read_text(value).removesuffix(":53").strip("[]")
    ipaddress.ip_address(text)
    return text


def read_path(value: object) -> Path:
    """Read a path; ``~`` is the home folder."""
    if not isinstance(value, (str, os.PathLike)) or not os.fspath(value):
        raise ValueError("expected a path")
    return Path(os.fspath(value)).expanduser()


def read_name_to_address(value: object) -> Mapping[str, str]:
    """Read ``name=address`` pairs."""
    if isinstance(value, str):
        value = dict(part.partition("=")[::2] for part in value.replace(",", " ").split())
    if not isinstance(value, Mapping) or not all(name and address for name, address in value.items()):
        raise ValueError("expected name=address pairs")
    return {str(name).lower(): str(address) for name, address in value.items()}


def read_ipr_version(value: object) -> int:
    """Read an IPR protocol version, or the version of a node."""
    text = str(value).strip()
    if text in ("8", "9", "10"):
        return int(text)
    if at_least(text, IPR_V10_RELEASE) is not None:
        return ipr_version_for(text)
    raise ValueError("expected 8, 9, 10 or a node version such as 1.37.0")
