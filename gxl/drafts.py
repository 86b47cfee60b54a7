# SPDX-License-Identifier: LGPL-2.1-or-later
"""Events on their way from an engine to a Context, which completes them.

An event is immutable, so its slots can only be filled in through their descriptors. Called from Python, those take
eight times as long as assignments, and an event needs a dozen. A draft is the same object before that: of a class that
allows assignments. To seal it is to give it the event's own class, which does not.
"""

from __future__ import annotations

from typing import Any

from gxl.events import Disk, DiskEject, DomainDeath, DomainShutdown, Event, ShutdownReason

_init: Any = object.__init__
# A class needs both: with one of them its own, Python would call either by its name, and slowly.
_set: Any = object.__setattr__
_delete: Any = object.__delattr__


class ShutdownDraft(DomainShutdown):
    """A DomainShutdown that is being made."""

    __slots__ = ()
    __init__ = _init
    __setattr__ = _set
    __delattr__ = _delete


class DeathDraft(DomainDeath):
    """A DomainDeath that is being made."""

    __slots__ = ()
    __init__ = _init
    __setattr__ = _set
    __delattr__ = _delete


class EjectDraft(DiskEject):
    """A DiskEject that is being made."""

    __slots__ = ()
    __init__ = _init
    __setattr__ = _set
    __delattr__ = _delete


def shutdown_draft(domid: int, for_user: int, reason: ShutdownReason | int) -> ShutdownDraft:
    """A draft; `reason` is a ShutdownReason wherever there is one of that number."""
    draft: ShutdownDraft = ShutdownDraft()
    draft.domid, draft.for_user, draft.shutdown_reason = domid, for_user, reason
    draft.domuuid = draft.seq = draft.time = draft.name = None
    return draft


def death_draft(domid: int, for_user: int) -> DeathDraft:
    """A draft."""
    draft: DeathDraft = DeathDraft()
    draft.domid, draft.for_user = domid, for_user
    draft.domuuid = draft.seq = draft.time = draft.name = None
    return draft


def eject_draft(domid: int, for_user: int, vdev: str | None, disk: Disk) -> EjectDraft:
    """A draft."""
    draft: EjectDraft = EjectDraft()
    draft.domid, draft.for_user, draft.vdev, draft.disk = domid, for_user, vdev, disk
    draft.domuuid = draft.seq = draft.time = draft.name = None
    return draft


SEALED: dict[type[Event], type[Event]] = {
    ShutdownDraft: DomainShutdown,
    DeathDraft: DomainDeath,
    EjectDraft: DiskEject,
}
"""Which class seals a draft."""
