# SPDX-License-Identifier: LGPL-2.1-or-later
"""One round: ``python -m soak.round ENGINE SEED STEPS [DIRECTORY of a served host]``.

The seed decides every step; how greenlets and events interleave, the machine decides. The last line says what was done.
"""

from __future__ import annotations

import faulthandler
import gc
import logging
import os
import random
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import gevent

import gxl
from gxl import DomainDeath, DomainShutdown, GxlError, WaitTimeout, floods
from gxl.errors import LibxlError
from gxl.interfaces import IEngine
from gxl.simhost import SimHost
from gxl.simhost.remote import RemoteHost
from soak.invariants import Broken, fork
from soak.ledger import Ledger

PATIENCE = 30.0
# The first epochs fill caches and pools; what the process has grown by after those must not go on growing.
WARM = 2
EPOCHS = 5
GROWTH_KIB = 24 * 1024


class Soak:
    """A host, a Context on it, and whatever is going on there."""

    def __init__(self, host: Any, engine: Callable[[], IEngine] | str, seed: int) -> None:
        self.host = host
        self.chance = random.Random(seed)
        self.ledger = Ledger()
        self.done: Counter[str] = Counter()
        self.ctx = gxl.Context(engine, hub="gevent", recover=True)
        self.domids: list[int] = []
        self.disks: dict[int, tuple[int, Any]] = {}
        self.evgens: dict[int, Any] = {}
        self.busy: list[gevent.Greenlet[..., Any]] = []
        self.watched: Counter[object] = Counter()
        self.drives: set[int] = set()
        self.over_the_shoulder = self.ctx.watch(maxlen=100_000)
        self.collector = gevent.spawn(self._collect)
        self.watcher = gevent.spawn(self._watch)

    def _collect(self) -> None:
        while True:
            try:
                self.ledger.take(self.ctx.event_wait())
            except gxl.ContextClosed:
                return
            except gxl.Disaster as disaster:
                # An eject that could not be acknowledged is told to whoever waits, and the Context lives on.
                if not disaster.type:
                    raise
                self.done["disasters"] += 1

    def _watch(self) -> None:
        """Look over everybody's shoulder by a watcher of its own."""
        try:
            for event in self.over_the_shoulder:
                if isinstance(event, DomainDeath):
                    self.watched[event.domuuid] += 1
        except gxl.ContextClosed:
            return

    def until(self, what: str, condition: Callable[[], object]) -> None:
        with gevent.Timeout(PATIENCE, Broken(f"{what}: not within {PATIENCE:g} s")):
            while not condition():
                gevent.sleep(0.002)

    def some(self) -> int:
        if not self.domids:
            self.create()
        return self.chance.choice(self.domids)

    # The steps. Each name is one that the last line counts.

    def create(self) -> None:
        domid = self.host.create_domain(self.chance.choice((None, f"web{self.chance.randrange(99)}", "a\nb\x1b[2J")))
        self.domids.append(domid)
        for _ in range(self.chance.randrange(1, 4)):
            self._enable(domid)

    def _enable(self, domid: int) -> None:
        user = self.ledger.open(domid, "death")
        try:
            self.evgens[user] = self.ctx.evenable_domain_death(domid, user)
        except GxlError:
            self.ledger.close(user)  # refused, and said so
            raise

    def disable(self) -> None:
        if self.evgens:
            user = self.chance.choice(sorted(self.evgens))
            self.ledger.close(user)
            self.evgens.pop(user).disable()

    def shut_down(self) -> None:
        self.host.shutdown_domain(self.some(), self.chance.randrange(256))

    def destroy(self) -> None:
        domid = self.some()
        self.domids.remove(domid)
        self.disks.pop(domid, None)
        self.host.destroy_domain(domid)

    def storm(self) -> None:
        domids = [self.host.create_domain() for _ in range(50)]
        for domid in domids:
            self._enable(domid)
        self.chance.shuffle(domids)
        for domid in domids:
            if self.chance.random() < 0.3:
                self.host.shutdown_domain(domid, 0)
            self.host.destroy_domain(domid)

    def _disk(self) -> tuple[int, int]:
        domid = self.some()
        if domid not in self.drives:
            self.drives.add(domid)
            self.host.add_disk(domid, "xvda")
        if domid not in self.disks:
            user = self.ledger.open(domid, "eject")
            self.disks[domid] = (user, self.ctx.evenable_disk_eject(domid, "xvda", user))
        return domid, self.disks[domid][0]

    def eject(self) -> None:
        self.host.eject_disk(self._disk()[0], "xvda")

    def lie(self) -> None:
        """A hostile guest writes anything where it may, and tries where it may not."""
        domid, _ = self._disk()
        other = self.some()
        for _ in range(10):
            whose = self.chance.choice((domid, domid, other, 0))
            name = self.chance.choice(("eject", "backend", "dev", "state", "x/y", ""))
            value = self.chance.choice((b"eject", b"", b"\xff\0\n", self.chance.randbytes(self.chance.randrange(1500))))
            try:
                self.host.write(f"/local/domain/{whose}/device/vbd/51712/{name}".rstrip("/"), value, domid)
            except OSError:
                if whose == domid and name == "eject" and len(value) < 100:
                    raise
            else:
                if whose != domid:
                    raise Broken(f"domain {domid} wrote to domain {whose}'s node {name}")

    def flood(self) -> None:
        domid, _ = self._disk()
        for _ in range(3 * floods.EJECTS_AT_ONCE):
            self.host.write(f"/local/domain/{domid}/device/vbd/51712/eject", "eject", domid)
            if self.chance.random() < 0.8:
                gevent.sleep(0.001)
        user, evgen = self.disks[domid]
        if evgen.flooded:
            self.done["floods stopped"] += 1
            user = self.ledger.open(domid, "eject")
            self.disks[domid] = (user, self.ctx.evenable_disk_eject(domid, "xvda", user))

    def operate(self) -> None:
        domid = self.some()
        name = self.chance.choice(("domain_pause", "domain_unpause", "domain_shutdown", "domain_destroy"))
        if name == "domain_destroy":
            self.domids.remove(domid)
            self.disks.pop(domid, None)

        def operate() -> None:
            try:
                getattr(self.ctx, name)(domid, timeout=20)
            except (LibxlError, GxlError):
                pass  # it went away, or it does not answer, or xenstored did
            if name == "domain_destroy":
                try:
                    self.host.destroy_domain(domid)
                except OSError:
                    pass  # gone already: libxl did it

        self.busy.append(gevent.spawn(operate))

    def wait_and_give_up(self) -> None:
        """Somebody waits for an event, and is killed, or loses patience; what he gets counts like any other."""
        domid = self.some()

        def wait() -> None:
            try:
                self.ledger.take(self.ctx.event_wait(domid=domid, timeout=0.01))
            except (WaitTimeout, gxl.ContextClosed):
                pass

        waiting = gevent.spawn(wait)
        if self.chance.random() < 0.5:
            gevent.sleep(0)
            # Not between taking an event and noting it: nothing switches there.
            waiting.kill()
        else:
            self.busy.append(waiting)

    def expect(self) -> None:
        domid = self.some()

        def wait() -> None:
            try:
                with self.ctx.expect((DomainShutdown, DomainDeath), domid) as end:
                    end.wait(0.05)
            except GxlError:
                pass

        self.busy.append(gevent.spawn(wait))

    def fork(self) -> None:
        fork(self.ctx)

    def restart_xenstored(self) -> None:
        self.host.drop_connections()

    def lose_xenstored(self) -> None:
        """It is gone for a while, in which life goes on."""
        with self.host.down():
            for _ in range(self.chance.randrange(10)):
                self._try(self.chance.choice(self.OUTAGE))
                gevent.sleep(self.chance.choice((0, 0.01)))

    def break_hypercall(self) -> None:
        self.host.fail_next("getdomaininfolist", 5)
        self.host.release()

    STEPS = (
        *(["create"] * 6 + ["disable"] + ["shut_down"] * 3 + ["destroy"] * 3 + ["storm"] + ["eject"] * 3 + ["lie"] * 3),
        *(["flood", "operate", "operate", "wait_and_give_up", "wait_and_give_up", "expect", "expect", "fork"]),
        *("restart_xenstored", "lose_xenstored", "break_hypercall"),
    )
    OUTAGE = ("create", "disable", "shut_down", "destroy", "storm", "eject", "wait_and_give_up", "expect", "fork")

    def step(self) -> None:
        self._try(self.chance.choice(self.STEPS))

    def _try(self, name: str) -> None:
        self.done[name] += 1
        try:
            getattr(self, name)()
        except GxlError as error:
            # Between the loss of xenstored and the next connection, calls that need one say so.
            if not isinstance(error, (gxl.Disaster, gxl.Outage, LibxlError)):
                raise
            self.done["refused"] += 1
        if self.chance.random() < 0.7:
            gevent.sleep(self.chance.choice((0, 0, 0.001)))

    def settle(self) -> None:
        """End everything, and see that all was reported."""
        gevent.joinall(self.busy, timeout=PATIENCE, raise_error=True)
        if not all(greenlet.ready() for greenlet in self.busy):
            raise Broken(f"greenlets hang: {[greenlet for greenlet in self.busy if not greenlet.ready()]}")
        self.busy.clear()
        for domid in self.domids:
            self.host.destroy_domain(domid)
        self.domids.clear()
        try:
            self.until("every death is reported", lambda: not self.ledger.undead() or self.collector.ready())
        except Broken as broken:
            missing = [self.ledger.account(user) for user in self.ledger.undead()[:5]]
            raise Broken(f"{broken}; missing: {missing} of {len(self.ledger.undead())}; {self.ctx.metrics()}") from None
        for evgen in (*self.evgens.values(), *(evgen for _, evgen in self.disks.values())):
            evgen.disable()
        self.evgens.clear()
        self.disks.clear()
        self.until("the Context is connected", lambda: self.ctx.outage is None)
        for greenlet in (self.collector, self.watcher):
            if greenlet.ready():
                raise Broken(f"{greenlet} has ended: {greenlet.exception!r}")
        twice = [uuid for uuid, count in self.watched.items() if count > 1]
        if twice:
            raise Broken(f"a watcher saw domains die twice: {twice}")
        self.watched.clear()
        if self.ledger.wrong:
            raise Broken("\n".join(self.ledger.wrong[:10]))

    def close(self) -> None:
        self.ctx.close(timeout=PATIENCE)
        gevent.joinall([self.collector, self.watcher], timeout=PATIENCE, raise_error=True)


def held() -> tuple[list[str], int]:
    """The fds of this process, and its greenlets that have not ended."""
    gc.collect()
    fds = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            fds.append(f"{fd}: {os.readlink(f'/proc/self/fd/{fd}').split('[')[0]}")
        except OSError:
            continue
    alive = [thing for thing in gc.get_objects() if isinstance(thing, gevent.Greenlet) and not thing.ready()]
    return sorted(fds), len(alive)


def resident_kib() -> int:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))


def main(engine: str, seed: int, steps: int, directory: str | None) -> None:
    faulthandler.enable()
    logging.getLogger("gxl").addHandler(logging.NullHandler())
    # As in production, only sooner.
    floods.EJECTS_AT_ONCE, floods.EJECTS_PER_SECOND = 40, 10.0
    host: Any
    if directory is not None:
        host = RemoteHost(directory)
        soak = Soak(host, engine, seed)
    else:
        host = SimHost()
        from gxl.engines.embedded import EmbeddedEngine

        soak = Soak(host, lambda: EmbeddedEngine(host), seed)
    baseline: tuple[list[str], int] | None = None
    sizes = []
    for epoch in range(EPOCHS):
        for _ in range(max(1, steps // EPOCHS)):
            soak.step()
        soak.settle()
        found = held()
        sizes.append(resident_kib())
        if epoch < WARM:
            # Not the latest: after a recovery the simulated host's hypercalls open their socket only once there is one.
            baseline = found if baseline is None else max(baseline, found, key=lambda found: len(found[0]))
            continue
        assert baseline is not None
        if not soak.ctx.metrics().abandoned and len(found[0]) > len(baseline[0]):
            raise Broken(f"fds leak: {set(found[0]) - set(baseline[0])}")
        if found[1] > baseline[1] + 2:
            raise Broken(f"greenlets leak: {baseline[1]} have become {found[1]}")
    if sizes[-1] - sizes[WARM - 1] > GROWTH_KIB:
        raise Broken(f"memory grows, KiB after each epoch: {sizes}")
    metrics = soak.ctx.metrics()
    soak.close()
    if soak.ledger.wrong:
        raise Broken("\n".join(soak.ledger.wrong[:10]))
    host.close()
    told = ", ".join(f"{count} {name}" for name, count in sorted(soak.ledger.counts.items()))
    did = ", ".join(f"{count} {name}" for name, count in sorted(soak.done.items()))
    print(f"events: {told}; steps: {did}; recoveries: {metrics.recoveries}; rss {sizes[-1] // 1024} MiB")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] if len(sys.argv) > 4 else None)
