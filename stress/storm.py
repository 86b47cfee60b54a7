# SPDX-License-Identifier: LGPL-2.1-or-later
"""Storms: many domains, each watched by a greenlet of its own, all of which end within a second."""

from __future__ import annotations

import gc
import random
from collections import Counter
from time import perf_counter
from typing import Any

import gevent
from gevent.event import Event as Latch

import gxl
from stress.pauses import slowness, ticking
from stress.place import Place


def storm(place: Place, size: int, seed: int) -> dict[str, Any]:
    """`size` domains die; half of them have shut down before. Each of `size` greenlets gets its own events, once.

    The host fires once for all of them, which is the worst case for the hub: one call of the engine finds everything.
    """
    dice = random.Random(seed)
    domids = [place.host.create_domain() for _ in range(size)]
    ctx = place.open()
    seen: Counter[tuple[int, str]] = Counter()
    parked = Latch()
    waiting = arrived = 0

    def watch(domid: int) -> None:
        nonlocal waiting, arrived
        with ctx.evenable_domain_death(domid, user=domid):
            waiting += 1
            if waiting == size:
                parked.set()
            while True:
                event = ctx.event_wait(domid=domid)
                assert event.for_user == domid
                seen[domid, type(event).__name__] += 1
                arrived += 1
                if isinstance(event, gxl.DomainDeath):
                    return

    watchers = [gevent.spawn(watch, domid) for domid in domids]
    parked.wait()
    _settle(ctx)
    gc.collect()
    longest: dict[str, float] = {}
    rounds: dict[str, int] = {}
    dice.shuffle(domids)
    halves = domids[: size // 2]
    with ticking() as ticker:
        calibration = slowness()
        for what, doomed, kill in (
            ("shutdowns", halves, lambda domid: place.host.shutdown_domain(domid, dice.randrange(256))),
            ("deaths", domids, place.host.destroy_domain),
        ):
            with place.host.quiet():
                for number, domid in enumerate(doomed):
                    kill(domid)
                    if number % 20 == 0:
                        gevent.sleep(0)
                # The host is in this process, perhaps, and was what the ticker has waited for.
                ticker.restart()
                began = perf_counter()
            wanted = len(halves) if what == "shutdowns" else len(halves) + size
            while arrived < wanted:
                assert perf_counter() - began < 120, f"{wanted - arrived} events are lost"
                gevent.sleep(0.001)
            longest[what], rounds[what] = ticker.longest, ticker.rounds
            took = perf_counter() - began
        calibration = max(calibration, slowness())
    gevent.joinall(watchers, timeout=60, raise_error=True)
    assert all(watcher.successful() for watcher in watchers)
    expected = Counter({(domid, "DomainDeath"): 1 for domid in domids})
    expected.update((domid, "DomainShutdown") for domid in halves)
    assert seen == expected, "lost or doubled"
    assert ctx.queued == 0
    ctx.close()
    # One call of libxl's finds all of it, at so much an event. Everything else is spread over the loop's turns.
    limit = calibration * (50 if place.engine == "embedded" else 50 + size / 20)
    assert max(longest.values()) < limit, f"paused for {longest}, by {calibration}"
    return {
        "domains": size,
        "events": sum(seen.values()),
        "seconds for the deaths": round(took, 3),
        "longest pause ms": {what: round(pause * 1000, 1) for what, pause in longest.items()},
        "calibration ms": round(calibration * 1000, 2),
        "rounds of the ticker": rounds,
    }


def _settle(ctx: gxl.Context) -> None:
    """Let what enabling has set off come to its end."""
    ctx.list_domain()
    gevent.sleep(0.01)
