# SPDX-License-Identifier: LGPL-2.1-or-later
"""The way of an ordinary event from an engine's evgen to whoever waits for it, in C where that is compiled.

Ordinary is nearly every one: it is of an evgen that one part of the application has enabled; whose domain it is, is
known, and what that is called; it was not reported before; and one waiter without a predicate waits for it. Any other
goes the way that gxl.feeds, gxl.pump and gxl.mailbox describe, and so does each where gxl has no compiled part.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from gxl import compiled
from gxl.drafts import SEALED, DeathDraft, EjectDraft, ShutdownDraft
from gxl.events import Event
from gxl.evgens import DiskEjectEvgen, DiskFeed, DomainDeathEvgen, DomainFeed, Sink
from gxl.mailbox import Parked

if TYPE_CHECKING:
    from gxl.callbacks import Callbacks
    from gxl.feeds import Feeds
    from gxl.mailbox import Mailbox

_DRAFTS = (ShutdownDraft, DeathDraft, EjectDraft)


def way(feeds: Feeds, mailbox: Mailbox, callbacks: Callbacks, accept: Sink) -> tuple[Callable[[Event], object], Sink]:
    """What stands for feeds.resolve, and for `accept`, which gives an event to a callback or to the mailbox."""
    if compiled.part is None:
        return feeds.resolve, accept
    ordinary = compiled.part.Ordinary(
        feeds=feeds,
        by_token=feeds.by_token,
        resolve=feeds.resolve,
        counts=feeds.stamps.counts,
        seqs=feeds.stamps.seqs,
        plain=mailbox.plain,
        picky=mailbox.picky,
        enqueue=mailbox.enqueue,
        accept=accept,
        callbacks=callbacks,
        time=time,
        drafts=_DRAFTS,
        sealed=tuple(SEALED[draft] for draft in _DRAFTS),
        types=tuple(draft.type for draft in _DRAFTS),
        owners=(Event, Parked, DomainFeed, DiskFeed, DomainDeathEvgen, DiskEjectEvgen),
    )
    return ordinary.resolve, ordinary.accept
