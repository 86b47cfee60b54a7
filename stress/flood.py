# SPDX-License-Identifier: LGPL-2.1-or-later
"""Floods: events that come faster, for a while, than those who take them take them."""

from __future__ import annotations

import random
from collections import Counter
from time import monotonic
from typing import Any

import gevent

import gxl
from stress.pauses import slowness, ticking
from stress.place import Place

BOUND = 100


def flood(place: Place, size: int, seed: int, seconds: float = 1.0) -> dict[str, Any]:
    """Domains are born and die for `seconds`, `size` of them at least.

    They are watched by one reader who keeps up, by two who don't and whose queues have a bound, and by the Context's
    own queue, which has none and which nobody reads until the end. Each of them accounts for every event.
    """
    dice = random.Random(seed)
    ctx = place.open()
    produced = 0
    kept_up: Counter[int] = Counter()
    # As long as the whole flood: this one shows that a reader who keeps up needs no bound.
    keen = ctx.watch(types=[gxl.DomainDeath], maxlen=max(BOUND, size))
    slow = {
        overflow: ctx.watch(types=[gxl.DomainDeath], maxlen=BOUND, overflow=overflow)
        for overflow in ("drop_newest", "drop_oldest")
    }
    taken: dict[str, Counter[int]] = {overflow: Counter() for overflow in slow}
    announced: Counter[str] = Counter()
    depth = longest_queue = 0

    def keep_up() -> None:
        for event in keen:
            assert isinstance(event, gxl.DomainDeath), f"a reader who kept up lost events: {event}"
            kept_up[event.domid] += 1

    def take(overflow: str, event: gxl.Event) -> None:
        if isinstance(event, gxl.EventsLost):
            announced[overflow] += event.count
        else:
            taken[overflow][event.domid] += 1

    def dawdle(overflow: str) -> None:
        for event in slow[overflow]:
            take(overflow, event)
            gevent.sleep(0.01)

    following = ctx.follow_domains(user=1)
    readers: list[Any] = [gevent.spawn(keep_up), *(gevent.spawn(dawdle, overflow) for overflow in slow)]
    domids = []
    end = monotonic() + seconds
    with ticking() as ticker:
        calibration = slowness()
        while produced < size or monotonic() < end:
            batch = [place.host.create_domain() for _ in range(dice.randrange(1, 50))]
            _seen(ctx, len(batch))
            for domid in batch:
                place.host.destroy_domain(domid)
            domids += batch
            produced += len(batch)
            gevent.sleep(0)
            depth = ctx.metrics().queue_depth
            assert depth <= produced
            longest_queue = max(longest_queue, *(watcher._waiting for watcher in slow.values()))
        last = monotonic() + 60
        while sum(kept_up.values()) < produced:
            assert monotonic() < last, f"a reader who kept up has {sum(kept_up.values())} of {produced}"
            gevent.sleep(0.001)
        calibration = max(calibration, slowness())
        longest = ticker.longest
    for overflow, watcher in slow.items():
        watcher.close()
        for event in watcher:
            take(overflow, event)
        delivered = sum(taken[overflow].values())
        assert watcher.lost == announced[overflow], "losses were not announced"
        assert delivered + watcher.lost == produced, f"{overflow}: {delivered} + {watcher.lost} != {produced}"
    keen.close()
    gevent.joinall(readers, timeout=30, raise_error=True)
    assert kept_up == Counter(domids), "a reader who kept up lost or doubled events"
    assert longest_queue <= BOUND
    assert ctx.metrics().queue_depth == produced, "the unbounded queue's depth is not what nobody has taken"
    unbounded = Counter(event.domid for event in iter(ctx.event_check, None))
    assert unbounded == Counter(domids), "the unbounded queue lost or doubled events"
    following.disable()
    ctx.close()
    # Of whatever is waiting, others have their turn in between.
    assert longest < calibration * (50 + size / 20), f"paused for {longest}, by {calibration}"
    return {
        "domains": produced,
        "lost by slow readers": {overflow: watcher.lost for overflow, watcher in slow.items()},
        "unbounded queue": depth,
        "longest pause ms": round(longest * 1000, 1),
        "calibration ms": round(calibration * 1000, 2),
    }


def _seen(ctx: gxl.Context, count: int) -> None:
    """A domain that lives and dies between two looks is not seen: wait until these are watched."""
    wanted = {info.domid for info in ctx.engine.list_domain() if info.domid}
    end = monotonic() + 30
    while not wanted <= ctx._pump.feeds._domains.keys():
        assert monotonic() < end, "new domains are not followed"
        gevent.sleep(0.0005)
