# SPDX-License-Identifier: LGPL-2.1-or-later
"""A round where gevent is not: ``python -m soak.elsewhere HUB ENGINE SEED STEPS [DIRECTORY of a served host]``.

Under asyncio one task acts and another takes the events; under poll these are threads. Shorter than soak.round: what
greenlets alone can do is missing, and so are hostile guests, who don't know of hubs.
"""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import gxl
from gxl import GxlError
from gxl.errors import LibxlError
from gxl.interfaces import IEngine
from gxl.simhost import SimHost
from gxl.simhost.remote import RemoteHost
from soak.invariants import Broken, fork
from soak.ledger import Ledger

PATIENCE = 30.0
WARM, EPOCHS = 2, 4


class Soak:
    """What is done to a host and to a Context on it. Each yield says how many seconds to let the others have."""

    def __init__(self, host: Any, ctx: gxl.Context, seed: int) -> None:
        self.host = host
        self.ctx = ctx
        self.chance = random.Random(seed)
        self.ledger = Ledger()
        self.done: Counter[str] = Counter()
        self.domids: list[int] = []
        self.evgens: dict[int, Any] = {}

    def run(self, steps: int) -> Iterator[float]:
        """All of it."""
        fds = 0
        for epoch in range(EPOCHS):
            for _ in range(max(1, steps // EPOCHS)):
                self.step()
                yield self.chance.choice((0.0, 0.0, 0.001))
            yield from self.settle()
            now = len(os.listdir("/proc/self/fd"))
            if epoch >= WARM and now > fds and not self.ctx.metrics().abandoned:
                raise Broken(f"fds leak: {fds} have become {now}")
            fds = max(fds, now)

    def step(self) -> None:
        """Something happens."""
        name = self.chance.choice(STEPS)
        self.done[name] += 1
        try:
            getattr(self, name)()
        except (gxl.Disaster, LibxlError):
            # Between the loss of xenstored and the next connection, calls that need one say so.
            self.done["refused"] += 1

    def create(self) -> None:
        domid = self.host.create_domain()
        self.host.add_disk(domid, "xvda")
        self.domids.append(domid)
        for kind in self.chance.choice((["death"], ["death", "death"], ["death", "eject"])):
            user = self.ledger.open(domid, kind)
            try:
                if kind == "death":
                    self.evgens[user] = self.ctx.evenable_domain_death(domid, user)
                else:
                    self.evgens[user] = self.ctx.evenable_disk_eject(domid, "xvda", user)
            except GxlError:
                self.ledger.close(user)  # refused, and said so
                raise

    def some(self) -> int:
        if not self.domids:
            self.create()
        return self.chance.choice(self.domids)

    def disable(self) -> None:
        if self.evgens:
            user = self.chance.choice(sorted(self.evgens))
            self.ledger.close(user)
            self.evgens.pop(user).disable()

    def shut_down(self) -> None:
        self.host.shutdown_domain(self.some(), self.chance.randrange(6))

    def destroy(self) -> None:
        domid = self.some()
        self.domids.remove(domid)
        self.host.destroy_domain(domid)

    def eject(self) -> None:
        self.host.eject_disk(self.some(), "xvda")

    def operate(self) -> None:
        name = self.chance.choice(("domain_pause", "domain_unpause", "domain_shutdown"))
        getattr(self.ctx, name)(self.some(), wait=False)

    def fork(self) -> None:
        fork(self.ctx)

    def restart_xenstored(self) -> None:
        # libxl crashes if xenstored dies while it is in evenable_disk_eject (docs/promises.md): another thread may be.
        with self.ctx._pump.lock:
            self.host.drop_connections()

    def settle(self) -> Iterator[float]:
        """End everything, and see that all was reported."""
        for domid in self.domids:
            self.host.destroy_domain(domid)
        self.domids.clear()
        end = time.monotonic() + PATIENCE
        while self.ledger.undead() or self.ctx.outage is not None or self.ctx.metrics().operations:
            if time.monotonic() > end:
                missing = [self.ledger.account(user) for user in self.ledger.undead()[:5]]
                raise Broken(f"not within {PATIENCE:g} s: {missing}; {self.ctx.outage}; {self.ctx.metrics()}")
            yield 0.002
        for evgen in self.evgens.values():
            evgen.disable()
        self.evgens.clear()
        if self.ledger.wrong:
            raise Broken("\n".join(self.ledger.wrong[:10]))

    def disaster(self, disaster: gxl.Disaster) -> None:
        """Whoever takes the events was told of one. An eject that could not be answered does not end the Context."""
        if not disaster.type:
            raise disaster
        self.done["disasters"] += 1

    def told(self) -> str:
        """What was done."""
        events = ", ".join(f"{count} {name}" for name, count in sorted(self.ledger.counts.items()))
        steps = ", ".join(f"{count} {name}" for name, count in sorted(self.done.items()))
        return f"events: {events}; steps: {steps}; recoveries: {self.ctx.metrics().recoveries}"


STEPS = (
    *(["create"] * 6 + ["disable"] + ["shut_down"] * 3 + ["destroy"] * 3 + ["eject"] * 2 + ["operate"] * 2),
    *("fork", "restart_xenstored"),
)


async def _in_asyncio(host: Any, engine: Callable[[], IEngine], seed: int, steps: int) -> str:
    async with gxl.Context(engine, hub="asyncio", recover=True) as ctx:
        soak = Soak(host, ctx, seed)

        async def collect() -> None:
            while True:
                try:
                    soak.ledger.take(await anext(ctx))
                except gxl.Disaster as disaster:
                    soak.disaster(disaster)
                except (gxl.ContextClosed, StopAsyncIteration):
                    return

        collector = asyncio.ensure_future(collect())
        for seconds in soak.run(steps):
            await asyncio.sleep(seconds)
            if collector.done():
                collector.result()
        told = soak.told()
    await asyncio.wait_for(asyncio.gather(collector, return_exceptions=True), PATIENCE)
    return told


def _in_threads(host: Any, engine: Callable[[], IEngine], seed: int, steps: int) -> str:
    with gxl.Context(engine, hub="poll", recover=True) as ctx:
        soak = Soak(host, ctx, seed)

        def collect() -> None:
            while True:
                try:
                    soak.ledger.take(ctx.event_wait())
                except gxl.Disaster as disaster:
                    soak.disaster(disaster)
                except gxl.ContextClosed:
                    return

        collector = threading.Thread(target=collect)
        collector.start()
        for seconds in soak.run(steps):
            time.sleep(seconds)
            if not collector.is_alive():
                raise Broken("the thread that takes the events has ended")
        told = soak.told()
    collector.join(PATIENCE)
    if collector.is_alive():
        raise Broken("the thread that takes the events hangs")
    return told


def main(hub: str, engine: str, seed: int, steps: int, directory: str | None) -> None:
    faulthandler.enable()
    logging.getLogger("gxl").addHandler(logging.NullHandler())
    host: Any
    make: Callable[[], IEngine]
    if directory is not None:
        from gxl.engines.libxl import LibxlEngine

        host, make = RemoteHost(directory), LibxlEngine
    else:
        from gxl.engines.embedded import EmbeddedEngine

        host = SimHost()
        make = partial(EmbeddedEngine, host)
    told = _in_threads(host, make, seed, steps) if hub == "poll" else asyncio.run(_in_asyncio(host, make, seed, steps))
    host.close()
    print(told)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5] if len(sys.argv) > 5 else None)
