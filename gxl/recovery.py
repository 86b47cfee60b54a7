# SPDX-License-Identifier: LGPL-2.1-or-later
"""What follows when the engine or its xenstored is lost, and the Context is to live on.

The header has it that an application frees its ctx after a disaster and opens another. Here that takes these steps,
none of which waits for anything inside a call:

1. Whoever needs an answer now is told that there will be none: operations under way, and questions for names. Whoever
   waits for events goes on waiting. The old ctx is freed. If it can't be, because an operation or a child is pending,
   it is served until it can, for a while, and abandoned after that.
2. From time to time xenstored is called on, by a connection of gxl's own, which never blocks. libxl is not: its
   connecting waits for a daemon that does not accept, and its requests wait for one that does not answer.
3. Once xenstored has answered, libxl is opened, and every evgen enabled anew. Whoever may have missed something gets a
   Resynced, and then what has become of the domains is reported.
4. Evgens are enabled that were to be enabled meanwhile.

There may be ten thousand evgens, and the loop has others to serve: so all of this is done a few steps at a time.

If xenstored goes again in the middle of that, it begins anew, and nothing is reported twice: the evgens know what they
have reported.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import random
import time
import weakref
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from gxl.errors import Disaster, GxlError, LibxlError, Outage
from gxl.events import EventType, Resynced
from gxl.evgens import DomainDeathEvgen, DomainFeed, Evgen
from gxl.identity import info_of
from gxl.reign import Reign
from gxl.shield import Shield

if TYPE_CHECKING:
    from gxl.interfaces import IEngine, IStoreConnection, ISuccession
    from gxl.pump import Pump
    from gxl.sidechannel import SideChannel

FIRST_SECONDS = 0.1
LONGEST_SECONDS = 10.0
"""How long to wait before an attempt: at most FIRST_SECONDS for the first, then twice as long each time."""
ANSWER_SECONDS = 5.0
"""How long xenstored may take for the answer that proves that it is there."""
FREE_SECONDS = 30.0
"""How long a lost ctx is served, while operations or children keep it from being freed."""
SLICE_SECONDS = 0.002
"""How long to enable evgens in one turn of the loop. A single one takes libxl some round trips to xenstored."""
PAUSE_SECONDS = 0.0005
"""How long not to, after that. Not 0: gevent does at once what is due at once, and looks at no fd before."""
REPORT_SECONDS = 0.00025
"""How long to report without a pause. gxl.arrivals takes as long for a turn's work."""
LOG_SECONDS = 60.0
"""How often an attempt that fails for the same reason as before is logged."""


class _Alarm:
    """A timeout that can be called off. It is its own token at the hooks."""

    def __init__(self, pump: Pump, seconds: float, f: Callable[[], object]) -> None:
        self._hooks = pump.hooks
        self._f: Callable[[], object] | None = f
        self._registration: object = self._hooks.timeout_register(time.time() + seconds, self)

    def fd_ready(self, fd: int, events: int, revents: int) -> None:
        """Never called: there is no fd."""

    def timeout_due(self) -> None:
        with Shield():
            f, self._f = self._f, None
            if f is not None:
                f()

    def cancel(self) -> None:
        if self._f is not None:
            self._f = None
            # A registration ends only by occurring.
            self._hooks.timeout_modify(self._registration, 0)


class Recovery:
    """Replaces a pump's engine when that is lost."""

    def __init__(self, pump: Pump) -> None:
        self._pump = pump
        self._lost: Disaster = Disaster(0, "")
        self._since = 0.0
        self._attempts = 0
        self._failure = ""
        self._logged = 0.0
        self._succession: ISuccession | None = None
        self._probe: SideChannel | None = None
        self._alarm: _Alarm | None = None
        self._former: dict[Reign, _Alarm] = {}
        self._next: Reign | None = None
        # What is being done a few steps at a time, and what has the next of them done.
        self._steps: Iterator[None] = iter(())
        self._go_on: Callable[[Iterator[None]], object] = self._enable_pending_soon
        self._refused: weakref.WeakSet[Evgen] = weakref.WeakSet()
        pump.on_progress(self._free_former)

    def former(self) -> Iterator[Reign]:
        """Engines that are lost, but not freed yet."""
        return iter(tuple(self._former))

    def reigns(self) -> Iterator[Reign]:
        """These, and the one that is about to take the place of the lost one."""
        yield from self.former()
        if self._next is not None:
            yield self._next

    def lost(self, reign: Reign, why: str) -> bool:
        """An engine is lost. Whether it is the one that was about to take the place of another."""
        if reign is not self._next:
            return False
        self.failed(why)
        return True

    def begin(self, disaster: Disaster, since: float | None, hung: bool) -> None:
        """The engine is lost."""
        pump = self._pump
        self._give_up_attempt()  # there may be something to say of the latest outage
        self._lost = disaster
        self._since = time.time() if since is None else since
        self._attempts = 0
        self._failure = ""
        self._describe()
        pump.counters.disasters += 1
        pump.log(logging.ERROR, "%s: opening another connection", disaster)
        pump.callbacks.disaster(disaster)
        pump.side.close()
        disablings = pump.feeds.suspend()
        for operation in list(pump.operations):
            if not operation.apart:
                operation.lose(disaster, abort=not hung)
        for asker in list(pump.askers):
            asker.end(pump.outage.again() if pump.outage is not None else disaster)
        self._retire(pump.reign, disablings, hung)
        self._schedule()

    def failed(self, why: str) -> None:
        """An attempt to come back has failed."""
        self._give_up_attempt()
        now = time.monotonic()
        if why != self._failure or now - self._logged >= LOG_SECONDS:
            self._logged = now
            self._pump.log(logging.WARNING, "no new connection to Xen yet (attempt %d): %s", self._attempts, why)
        self._failure = why
        self._describe()
        self._schedule()

    def interrupted(self) -> None:
        """Ctrl-C may have taken the place of what was to come next: see that it comes, or begin another attempt."""
        if self._pump.outage is None:
            # As other steps: what was to take them may still come, too.
            self._begin(itertools.chain(self._steps), self._go_on)
            return
        self._give_up_attempt()
        self._schedule()

    def stop(self) -> None:
        """The context ends: try no more."""
        self._give_up_attempt()
        for reign in self.former():
            if not reign.free():
                self._abandon(reign)
        for alarm in self._former.values():
            alarm.cancel()
        self._former.clear()

    def _describe(self) -> None:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self._since))
        tried = f"; attempt {self._attempts} to open another has failed: {self._failure}" if self._failure else ""
        text = f"the connection to Xen is lost since {when} ({self._lost.message}){tried}"
        self._pump.outage = Outage(0, text, self._lost.errnoval)

    def _schedule(self) -> None:
        longest = min(LONGEST_SECONDS, FIRST_SECONDS * 2 ** min(self._attempts, 30))
        # Others have lost the same xenstored in the same moment: they should not all come back in one.
        seconds = random.uniform(longest / 2 if self._attempts else 0, longest)
        self._alarm = _Alarm(self._pump, seconds, self._attempt)

    def _attempt(self) -> None:
        self._attempts += 1
        assert self._succession is not None
        try:
            connection = self._succession.xenstore_connect()
        except OSError as error:
            self.failed(f"xenstored can't be reached: {error}")
            return
        try:
            self._call_on(connection)
        except Exception as error:
            connection.close()
            self.failed(f"xenstored can't be watched: {error}")

    def _call_on(self, connection: IStoreConnection) -> None:
        self._probe = self._pump.listen(connection)
        no_answer = f"xenstored accepts connections, but has not answered for {ANSWER_SECONDS:.0f} s"
        self._alarm = _Alarm(self._pump, ANSWER_SECONDS, lambda: self.failed(no_answer))
        # Whether there is such a name, matters not. The rest is not for the midst of its reading.
        self._probe.name_of(0, lambda name: self._answered())

    def _answered(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = _Alarm(self._pump, 0, self._open)

    def _open(self) -> None:
        pump = self._pump
        assert self._succession is not None
        assert self._probe is not None
        try:
            engine = self._succession.open()
        except Exception as error:
            self.failed(f"the engine can't be opened: {error}")
            return
        try:
            self._next = reign = pump.enthrone(engine)
        except Exception as error:
            self.failed(f"the engine can't be used: {error}")
            return
        self._begin(self._resume(reign.engine, self._probe), self._enable_soon)

    def _begin(self, steps: Iterator[None], go_on: Callable[[Iterator[None]], object]) -> None:
        self._steps, self._go_on = steps, go_on
        go_on(steps)

    def _finished(self, steps: Iterator[None], seconds: float) -> bool:
        """Take steps for so long, unless others were begun. Whether these were all; if not, the rest comes soon."""
        if steps is not self._steps:
            return False
        end = time.perf_counter() + seconds
        for _ in steps:
            if steps is not self._steps:
                return False
            if time.perf_counter() >= end:
                self._go_on(steps)
                return False
        return steps is self._steps

    def _resume(self, engine: IEngine, side: SideChannel) -> Iterator[None]:
        """Enable at the new engine whatever has not ended meanwhile."""
        feeds = self._pump.feeds
        for feed in feeds.all():
            if not feed.members:  # disabled meanwhile
                continue
            info = info_of(engine, feed.domid)
            if isinstance(feed, DomainFeed):
                if info is not None and info.uuid == feed.uuid and not info.dying:
                    feed.engage(engine)
            elif feed.uuid is None or info is None or info.uuid == feed.uuid:
                feed.engage(engine, next(iter(feed.members)).vdev)
            if feed.handle is not None and not feed.named:
                feeds.names.ask(feed, side)
            yield

    def _enable_soon(self, steps: Iterator[None]) -> None:
        self._alarm = _Alarm(self._pump, PAUSE_SECONDS, lambda: self._enable(steps))

    def _enable(self, steps: Iterator[None]) -> None:
        assert self._next is not None
        try:
            finished = self._finished(steps, SLICE_SECONDS)
        except Exception as error:
            self.failed(f"the evgens can't be enabled again: {error}")
            return
        if finished:
            self._take_its_place()

    def _take_its_place(self) -> None:
        pump = self._pump
        assert self._next is not None
        assert self._probe is not None
        pump.reign, pump.side, pump.outage = self._next, self._probe, None
        self._next = self._probe = self._alarm = None
        pump.feeds.connect(pump.reign.engine, pump.side)
        pump.counters.recoveries += 1
        pump.log(logging.WARNING, "connected to Xen again, after %.1f s", time.time() - self._since)
        self._resynced()
        self._begin(self._truth(), self._report_soon)

    def _resynced(self) -> None:
        pump = self._pump
        reason = self._lost.message
        missed = {
            EventType.DOMAIN_SHUTDOWN if isinstance(evgen, DomainDeathEvgen) else EventType.DISK_EJECT
            for feed in pump.feeds.all()
            for evgen in feed.members
            if evgen.sink == pump.accept
        }
        if any(following.sink == pump.accept for following in pump.followings):
            # A life that begins and ends meanwhile leaves no trace.
            missed |= {EventType.DOMAIN_SHUTDOWN, EventType.DOMAIN_DEATH}
        if missed:
            pump.accept(pump.feeds.stamp(Resynced(0, reason, self._since, tuple(sorted(missed))), None, 0, None))
        for ender in list(pump.enders):
            ender.resynced(reason, self._since)

    def _truth(self) -> Iterator[None]:
        pump = self._pump
        yield from pump.feeds.report_since()
        if pump.followings:
            present = pump.reign.engine.list_domain()
            for following in list(pump.followings):
                following.look(present)

    def _report_soon(self, steps: Iterator[None]) -> None:
        # Among what has arrived: who asks for events, or enables an evgen, hears all of it before.
        self._pump.arrived(lambda: self._report(steps))

    def _report(self, steps: Iterator[None]) -> None:
        with Shield():
            try:
                if self._finished(steps, REPORT_SECONDS):
                    self._begin(self._pending(), self._enable_pending_soon)
            except Exception as error:
                self._pump.lose(Disaster(0, f"what has become of the domains can't be found out: {error}"))

    def _pending(self) -> Iterator[None]:
        """Enable what was to be enabled while there was no engine."""
        pending = self._pump.feeds.pending
        for evgen, enable in list(pending.items()):
            if evgen in pending:
                try:
                    enable()
                except (LibxlError, Disaster) as error:
                    if self._pump.lost():
                        return
                    if evgen not in self._refused:  # it may be a trouble that passes
                        self._refused.add(evgen)
                        raise
                    self._pump.refused(evgen, error)
                pending.pop(evgen, None)
                yield

    def _enable_pending_soon(self, steps: Iterator[None]) -> None:
        self._alarm = _Alarm(self._pump, PAUSE_SECONDS, lambda: self._enable_pending(steps))

    def _enable_pending(self, steps: Iterator[None]) -> None:
        try:
            self._finished(steps, SLICE_SECONDS)
        except Exception as error:
            self._pump.lose(Disaster(0, f"an evgen can't be enabled: {error}"))

    def _retire(self, reign: Reign, disablings: list[Callable[[], object]], hung: bool) -> None:
        """Free a lost engine, or keep it until it can be freed."""
        self._succession = reign.engine.succession()
        reign.retired = True
        if hung:
            self._abandon(reign)
        elif not reign.free():
            for disable in disablings:
                # It must not take ejects from the engine that comes next.
                with contextlib.suppress(GxlError):
                    disable()
            self._former[reign] = _Alarm(self._pump, FREE_SECONDS, lambda: self._give_up(reign))

    def _free_former(self) -> None:
        for reign in self.former():
            if reign.free():
                self._former.pop(reign).cancel()

    def _give_up(self, reign: Reign) -> None:
        if self._former.pop(reign, None) is not None and not reign.free():
            self._abandon(reign)

    def _abandon(self, reign: Reign) -> None:
        self._pump.log(logging.ERROR, "a libxl context is abandoned, not freed: %s", reign.pending or "it may hang")
        self._pump.counters.abandoned += 1
        reign.abandon()

    def _give_up_attempt(self) -> None:
        self._steps = iter(())
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if self._probe is not None:
            self._probe.close()
            self._probe = None
        if self._next is not None:
            reign, self._next = self._next, None
            self._retire(reign, self._pump.feeds.suspend(), hung=False)
