"""Patching together with gevent, in one call or from gevent's own.

``patch_all()`` here patches with both. A program whose start is ``python -m gevent.monkey script.py`` or somebody else's
``gevent.monkey.patch_all()`` can have :func:`did_patch_all` called by gevent, as an entry point of a package of yours
(this package registers none: to be installed is not to be asked for)::

    [options.entry_points]
    gevent.plugins.monkey.did_patch_all =
        smolmix = smolmix_sync.ext.gevent_monkey:did_patch_all

It acts where it is asked to: ``gevent.monkey.patch_all(smolmix=True)``, or with a dictionary of options for our
``patch_all()``, or with ``SMOLMIX_GEVENT=1`` in the environment.

Source: spec/sockets.md section 11; issue 5 part 4.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import smolmix_sync

__all__ = ["did_patch_all", "patch_all", "subscribe"]


def patch_all(*, gevent_options: Mapping[str, Any] | None = None, **options: Any) -> smolmix_sync.Patch:
    """Call ``gevent.monkey.patch_all`` and then ours.

    Args:
        gevent_options: keywords for gevent's.
        options: keywords for ours.
    """
    from gevent import monkey

    monkey.patch_all(**(gevent_options or {}))
    return smolmix_sync.patch_all(**options)


def did_patch_all(event: Any) -> None:
    """Patch after gevent has, if it was told ``smolmix=`` or the environment has ``SMOLMIX_GEVENT``.

    Args:
        event: gevent's ``GeventDidPatchAllEvent``.
    """
    told = event.patch_all_kwargs
    asked = told.get("smolmix", os.environ.get("SMOLMIX_GEVENT", "") not in ("", "0"))
    if asked:
        smolmix_sync.patch_all(**(asked if isinstance(asked, Mapping) else {}))


def subscribe() -> None:
    """Have gevent's next ``patch_all()`` call :func:`did_patch_all`, without an entry point."""
    from gevent import events

    def receive(event: Any) -> None:
        if isinstance(event, events.GeventDidPatchAllEvent):
            did_patch_all(event)

    events.subscribers.append(receive)
