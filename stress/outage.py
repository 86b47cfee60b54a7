# SPDX-License-Identifier: LGPL-2.1-or-later
"""Outages: xenstored dies while many domains are watched, and comes back when much has happened."""

from __future__ import annotations

import contextlib
import random
from collections import Counter
from time import perf_counter
from typing import Any

import gevent

import gxl
from stress.pauses import slowness, ticking
from stress.place import Place


def outage(place: Place, size: int, seed: int) -> dict[str, Any]:
    """`size` domains, each waited for by a greenlet; half of them come, and are to be watched, during the outage.

    While xenstored is dead, a quarter of each half shuts down, and a quarter dies. When it is back, the others die, and
    in the midst of that it dies once more. Each greenlet gets its own events, once.
    """
    dice = random.Random(seed)
    host = place.host
    ctx = place.open(recover=True)
    seen: Counter[tuple[int, str]] = Counter()
    expected: Counter[tuple[int, str]] = Counter()
    arrived = resynced = 0

    def watch(domid: int) -> None:
        nonlocal arrived
        # Enabled before, and not disabled until nothing more comes: both would deliver all that has been found at once.
        while True:
            event = ctx.event_wait(domid=domid)
            assert event.for_user == domid
            seen[domid, type(event).__name__] += 1
            arrived += 1
            if isinstance(event, gxl.DomainDeath):
                return

    def count() -> None:
        nonlocal resynced
        with contextlib.suppress(gxl.ContextClosed):
            while ctx.event_wait(gxl.mask(gxl.EventType.RESYNCED)):
                resynced += 1

    counter = gevent.spawn(count)
    watchers: list[Any] = []
    # Whoever watches nothing any more is not told that something may be missing.
    evgens = [ctx.evenable_domain_death(host.create_domain())]

    def begin(number: int) -> list[int]:
        domids = [host.create_domain() for _ in range(number)]
        evgens.extend(ctx.evenable_domain_death(domid, user=domid) for domid in domids)
        watchers.extend(gevent.spawn(watch, domid) for domid in domids)
        gevent.sleep(0)
        return domids

    def until(condition: Any, seconds: float) -> None:
        end = perf_counter() + seconds
        while not condition():
            assert perf_counter() < end, f"{arrived} of {sum(expected.values())} events, {ctx.outage}, {ctx.metrics()}"
            gevent.sleep(0.001)

    living = begin(size // 2)
    pauses: dict[str, float] = {}
    rounds: dict[str, int] = {}
    with ticking() as ticker:
        calibration = slowness()
        with host.down():
            until(lambda: ctx.outage is not None, 10)
            living += begin(size - size // 2)
            dice.shuffle(living)
            doomed, living = living[: size // 4], living[size // 4 :]
            halted = living[: size // 4]
            for domid in halted:
                host.shutdown_domain(domid, dice.randrange(256))
            for domid in doomed:
                host.destroy_domain(domid)
            expected.update((domid, "DomainShutdown") for domid in halted)
            expected.update((domid, "DomainDeath") for domid in doomed)
            gevent.sleep(0.001)
        ticker.longest, ticker.rounds, began = 0.0, 0, perf_counter()
        until(lambda: arrived >= sum(expected.values()) and ctx.outage is None, 120)
        recovered = perf_counter() - began
        pauses["coming back"], rounds["coming back"] = ticker.longest, ticker.rounds
        with host.quiet():
            for number, domid in enumerate(living):
                host.destroy_domain(domid)
                if number % 20 == 0:
                    gevent.sleep(0)
            expected.update((domid, "DomainDeath") for domid in living)
            gevent.sleep(0.001)
            ticker.longest, ticker.rounds, began = 0.0, 0, perf_counter()
            half = arrived + len(living) // 2
        until(lambda: arrived >= half, 120)
        host.drop_connections()
        until(lambda: arrived >= sum(expected.values()) and ctx.metrics().recoveries >= 2, 120)
        stormed = perf_counter() - began
        pauses["lost amid a storm"], rounds["lost amid a storm"] = ticker.longest, ticker.rounds
        calibration = max(calibration, slowness())
    gevent.joinall(watchers, timeout=60, raise_error=True)
    assert seen == expected, "lost or doubled"
    until(lambda: resynced == ctx.metrics().recoveries, 10)
    assert ctx.queued == 0
    assert ctx.metrics().abandoned == 0
    ctx.close()
    counter.get(timeout=10)
    # What is done for each evgen is spread over the loop's turns; what an engine finds in one call of it is not.
    assert max(pauses.values()) < calibration * (50 + size / 20), f"paused for {pauses}, by {calibration}"
    return {
        "domains": size,
        "events": sum(seen.values()),
        "recoveries": resynced,
        "seconds to come back": round(recovered, 3),
        "seconds of the storm": round(stormed, 3),
        "longest pause ms": {what: round(pause * 1000, 1) for what, pause in pauses.items()},
        "calibration ms": round(calibration * 1000, 2),
        "rounds of the ticker": rounds,
    }
