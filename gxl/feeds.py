# SPDX-License-Identifier: LGPL-2.1-or-later
"""From the engine's evgens to the application's: sharing, one life, present state, fan-out.

Every evgen of the engine's costs libxl time at each scan, two on one disk steal each other's ejects, and libxl knows a
domain only by its domid. So all interest in one domain, or one disk, is fed by one evgen of the engine's (its feed),
whose user value is a token that is never used again, and this room adds what libxl leaves out:

* One life. A feed remembers the domain's UUID. When the domid turns out to have another, the old life is dead.
* The latch. Each evgen of the application's reports one SHUTDOWN and one DEATH at most, whichever source is first.
* The present state. libxl looks at it only when its first evgen is enabled, so it is asked for at each enabling.
* A spent feed. libxl's evgens report one SHUTDOWN in their life, even if the domain resumes. Later comers need another.
* A lost engine (gxl.recovery). Feeds are enabled anew at the next, and what happened meanwhile goes through the latch.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import cast
from uuid import UUID

from gxl import floods
from gxl.arguments import devid
from gxl.errors import Disaster, LibxlError
from gxl.events import DiskEject, DomainDeath, DomainShutdown, Event, EventsLost
from gxl.evgens import DiskEjectEvgen, DiskFeed, DomainDeathEvgen, DomainFeed, Evgen, Sink, shutdown_of
from gxl.identity import info_of
from gxl.interfaces import DomainInfo, IEngine
from gxl.leaving import Leaving
from gxl.metrics import Counters
from gxl.names import Names
from gxl.sidechannel import SideChannel
from gxl.stamps import Stamps


class Feeds:
    """All feeds of one Context."""

    def __init__(
        self,
        others: Sink,
        settle: Callable[[], object],
        lost: Callable[[], bool],
        leaving: Leaving,
        lock: AbstractContextManager[object],
        check_caller: Callable[[], object],
        log: Callable[..., object],
        counters: Counters,
    ) -> None:
        self._counters = counters
        self.lock = lock
        self.check_caller = check_caller
        self._log = log
        # Takes the events that are of no evgen.
        self._others = others
        # None until connect(), and after suspend() until the next.
        self._engine: IEngine | None = None
        self._side: SideChannel | None = None
        # Whether each domid was still whose it was when what is being delivered arrived. None: nobody has looked.
        self._certain: bool | None = False
        # Delivers what the engine has reported already, so that a state is not judged before its events are.
        self._settle = settle
        # Whether a call has failed because the engine is gone, and another will come.
        self._lost = lost
        self._leaving = leaving
        self._tokens = itertools.count(1)
        self.stamps = Stamps(counters)
        self.stamp = self.stamps.stamp
        self.by_token: dict[int, DomainFeed | DiskFeed] = {}
        self._domains: dict[int, list[DomainFeed]] = {}
        self._disks: dict[tuple[int, int], DiskFeed] = {}
        # Enabled while there was no engine, with what enables them once there is one.
        self.pending: dict[Evgen, Callable[[], None]] = {}
        # Ejects that the next engine has answered before it took its place: no other will report them.
        self._early: list[tuple[DiskFeed, DiskEject]] = []
        self.names = Names()

    def connect(self, engine: IEngine, side: SideChannel) -> None:
        """From now on use these."""
        self._engine, self._side = engine, side

    def watch_domain(
        self, domid: int, user: int, sink: Sink, present: bool, info: DomainInfo | None = None
    ) -> DomainDeathEvgen:
        """Begin to report one life of `domid`, the one that it has now, to `sink`. `info`: as just found."""
        evgen = DomainDeathEvgen(self, domid, user, sink)
        with self.lock:
            self._enable(evgen, partial(self._watch_domain, evgen, present, info and info.uuid), info)
        return evgen

    def _enable(
        self, evgen: Evgen, enable: Callable[[DomainInfo | None], None], info: DomainInfo | None = None
    ) -> None:
        self._settle()  # which may find that the engine is lost
        # What was just found of the domain is of no use to the next engine: it may have died by then.
        later = partial(enable, None)
        if self._engine is None:
            self.pending[evgen] = later
            return
        try:
            enable(info)
        except (LibxlError, Disaster):
            if not self._lost():
                raise
            self.pending[evgen] = later

    def _watch_domain(self, evgen: DomainDeathEvgen, present: bool, life: UUID | None, info: DomainInfo | None) -> None:
        domid = evgen.domid
        info = self._info(domid) if info is None else info
        for feed in list(self._domains.get(domid, ())):
            if info is None or feed.uuid != info.uuid:
                self._end(feed)
        if info is None or info.dying or life not in (None, info.uuid):
            self._report_death(evgen, life or (info and info.uuid), None)
            return
        feed = next((feed for feed in self._domains.get(domid, ()) if not feed.spent), None) or self._open_domain(info)
        evgen._feed = feed
        feed.members[evgen] = None
        if info.shutdown:
            if present:
                self._report_shutdown(evgen, feed, shutdown_of(info))
            else:
                evgen._held_over = (info.cpu_time_ns, info.shutdown_reason)

    def watch_disk(self, domid: int, vdev: str, user: int, sink: Sink) -> DiskEjectEvgen:
        """Begin to report ejects of `vdev` to `sink`."""
        number = devid(vdev)
        evgen = DiskEjectEvgen(self, domid, user, sink, vdev)
        with self.lock:
            self._enable(evgen, partial(self._watch_disk, evgen, number))
        return evgen

    def _watch_disk(self, evgen: DiskEjectEvgen, number: int, info: DomainInfo | None) -> None:
        domid = evgen.domid
        info = self._info(domid) if info is None else info
        feed = self._disks.get((domid, number))
        if feed is not None and feed.uuid is not None and info is not None and feed.uuid != info.uuid:
            self._close(feed)
            feed = None
        if feed is None:
            feed = DiskFeed(domid, number, info and info.uuid, next(self._tokens))
            feed.engage(self._at_hand(), evgen.vdev)
            self.by_token[feed.token] = self._disks[domid, number] = feed
            self.names.ask(feed, self._side)
        evgen._feed = feed
        feed.members[evgen] = None

    def known(self, domid: int) -> tuple[UUID | None, str | None]:
        """The UUID of the domain that has this domid now, and its name if that is known already."""
        info = self._info(domid) if self._engine is not None else None
        if info is None:
            return None, None
        names = (feed.name for feed in self._domains.get(domid, ()) if feed.uuid == info.uuid)
        return info.uuid, next(names, None) or self.names.of((domid, info.uuid))

    def live(self) -> tuple[int, int]:
        """How many evgens of the application's there are, and how many of the engine's feed them."""
        feeds = self.by_token.values()
        return sum(len(feed.members) for feed in feeds), len(feeds)

    def watches(self, name: object, uuid: UUID | None) -> bool:
        """Whether a domain of this name, or of this UUID, is being watched."""
        feeds = self.by_token.values()
        return any(feed.name == name or (uuid is not None and feed.uuid == uuid) for feed in feeds)

    def disable(self, evgen: Evgen) -> None:
        """Take `evgen` off its feed, and the feed off the engine when it was the last. Idempotent."""
        self.pending.pop(evgen, None)
        self._settle()
        feed, evgen._feed = evgen._feed, None
        if feed is None:
            return
        cast(dict[Evgen, None], feed.members).pop(evgen, None)
        if not feed.members:
            self._close(feed)

    def arrived(self) -> None:
        """More has arrived, and is about to be resolved."""
        self._certain = None

    def catch_up(self) -> None:
        """Take in what xenstored has told by now, such as names."""
        if self._side is not None:
            self._side.catch_up()

    def _caught_up(self) -> bool:
        """Take in what xenstored has told by now. Whether each domid is known to be still whose it was.

        A domain is paused until it was introduced, and so a newcomer on an old domid can't have shut down or ejected
        anything that has arrived, unless its introduction has, too. That spares a hypercall for each of their events,
        which would cost more than all else: libxl has to map and unmap memory for it.
        """
        if self._certain is None:
            self._certain = self._side is not None and self._side.catch_up()
        return self._certain

    def resolve(self, event: Event) -> None:
        """Deliver what the engine reported: an evgen's event to its members' sinks, any other to `others`.

        It must have arrived before the latest arrived() was called.
        """
        if not isinstance(event, (DomainShutdown, DomainDeath, DiskEject)):
            self._others(event)
            return
        feed = self.by_token.get(event.for_user)
        if feed is not None and not feed.named:
            self._caught_up()
        if self._engine is None:
            self._keep(feed, event)
        elif isinstance(feed, DomainFeed):
            if isinstance(event, DomainShutdown):
                self._shutdown(feed, event)
            else:
                self._end(feed, event)
        elif feed is not None and isinstance(event, DiskEject):
            self._eject(feed, event)
        else:
            self._log(logging.DEBUG, "dropped %r: nobody is interested any more", event)

    def _keep(self, feed: DomainFeed | DiskFeed | None, event: Event) -> None:
        """From the engine that is about to take its place. How domains are will be told when it does."""
        if isinstance(feed, DiskFeed) and isinstance(event, DiskEject):
            self._early.append((feed, event))
        elif isinstance(feed, DomainFeed):
            feed.spent |= isinstance(event, DomainShutdown)

    def check_lives(self, present: Sequence[DomainInfo]) -> None:
        """A domain appeared: see whether it took the domid of one that is being watched."""
        lives = {info.domid: info.uuid for info in present}
        for info in present:
            for feed in list(self._domains.get(info.domid, ())):
                if feed.uuid != info.uuid:
                    self._end(feed)
                elif not info.shutdown:
                    for evgen in feed.members:
                        evgen._held_over = None
        for disk in list(self._disks.values()):
            if disk.uuid is not None and lives.get(disk.domid, disk.uuid) != disk.uuid:
                self._drop_disk(disk)

    def suspend(self) -> list[Callable[[], object]]:
        """The engine is lost. Returns what disables its evgens, if it lives on for a while.

        What it still reports of them is not known any more, and dropped.
        """
        self._engine = self._side = None
        self._certain = False
        self.names.no_answers()
        feeds = self.all()
        enabled = [feed.disengage() for feed in feeds if feed.handle is not None] + self._leaving.take()
        self.by_token.clear()
        for feed in feeds:
            feed.token = next(self._tokens)
            self.by_token[feed.token] = feed
            if isinstance(feed, DomainFeed):
                feed.spent = False
        return enabled

    def all(self) -> list[DomainFeed | DiskFeed]:
        """All of them."""
        return list(self.by_token.values())

    def report_since(self) -> Iterator[None]:
        """Report what has become of those that were watched, a step at a time.

        What the new engine reports in between is reported, too; the latch sees to it that nothing is said twice.
        """
        for feed in self.all():
            if feed.token not in self.by_token:  # ended meanwhile, or disabled
                continue
            if isinstance(feed, DomainFeed):
                info = self._info(feed.domid)
                if feed.handle is None or info is None or info.uuid != feed.uuid:
                    self._end(feed)
                else:
                    self._report_state(feed, info)
            elif feed.handle is None:
                self._drop_disk(feed)
            yield
        while self._early:
            disk, event = self._early.pop(0)
            if disk.token in self.by_token:
                self._eject(disk, event)
            yield

    def _report_state(self, feed: DomainFeed, info: DomainInfo) -> None:
        for evgen in list(feed.members):
            if not info.shutdown:
                evgen._held_over = None
            elif evgen._held_over != (info.cpu_time_ns, info.shutdown_reason):
                self._report_shutdown(evgen, feed, shutdown_of(info))

    def sever(self) -> None:
        """The engine is gone, and its handles with it: forget all feeds without touching them."""
        for feed in self.by_token.values():
            for evgen in feed.members:
                evgen._feed = None
        for listed in (self.by_token, self._domains, self._disks, self.pending, self._early):
            listed.clear()
        self._leaving.take()

    def _shutdown(self, feed: DomainFeed, event: DomainShutdown) -> None:
        certain = self._certain or self._caught_up()
        for evgen in (members := list(feed.members)):
            certain &= evgen._held_over is None
        if not certain:
            self._shutdown_if_theirs(feed, event)
            return
        feed.spent = True
        for evgen in members:
            self._report_shutdown(evgen, feed, event)

    def _shutdown_if_theirs(self, feed: DomainFeed, event: DomainShutdown) -> None:
        """It may be another domain's, or one that held already when somebody began to wait."""
        answered, info = self._ask(feed.domid, "shut down")
        if answered and (info is None or info.uuid != feed.uuid):
            # Whose shutdown it was can't be known any more. The old life is over, that much is certain.
            self._end(feed)
            return
        feed.spent = True
        held_over: list[DomainDeathEvgen] = []
        for evgen in list(feed.members):
            if evgen._held_over is not None and info is not None:
                if not info.shutdown:
                    evgen._held_over = None
                    held_over.append(evgen)
                    continue
                if evgen._held_over == (info.cpu_time_ns, event.shutdown_reason):
                    held_over.append(evgen)
                    continue
            self._report_shutdown(evgen, feed, event)
        if held_over:
            self._renew(feed, held_over)

    def _renew(self, feed: DomainFeed, held_over: list[DomainDeathEvgen]) -> None:
        """Move evgens that still wait for a shutdown to a feed that can still report one.

        The new one is enabled before the old is disabled: while libxl's watch stands, enabling makes it look at
        nothing, and so the shutdown that was ignored is not reported again at once.
        """
        fresh = DomainFeed(feed.domid, feed.uuid, next(self._tokens))
        fresh.engage(self._at_hand())
        fresh.name, fresh.named = feed.name, True
        self.by_token[fresh.token] = fresh
        self._domains[feed.domid].append(fresh)
        for evgen in held_over:
            if evgen._feed is feed:
                del feed.members[evgen]
                fresh.members[evgen] = None
                evgen._feed = fresh
        for idle in (feed, fresh):
            if not idle.members:
                self._close(idle)

    def _end(self, feed: DomainFeed, event: Event | None = None) -> None:
        members = list(feed.members)
        for evgen in members:
            evgen._feed = None
        self._close(feed, later=True)
        for evgen in members:
            self._report_death(evgen, feed.uuid, feed.name, event)

    def _eject(self, feed: DiskFeed, event: DiskEject) -> None:
        if feed.uuid is None or not (self._certain or self._caught_up()):
            _, info = self._ask(feed.domid, "ejected a disk")
            if info is not None:
                if feed.uuid is None:
                    feed.uuid = info.uuid
                elif feed.uuid != info.uuid:
                    why = "dropped %r: it is from another domain than the one that was watched"
                    self._log(logging.DEBUG, why, event)
                    self._drop_disk(feed)
                    return
        if not feed.allowance.spend():
            self._flooded(feed)
            return
        for evgen in list(feed.members):
            if evgen._feed is feed:
                own = event if event.vdev == evgen.vdev else DiskEject(event.domid, evgen.vdev, event.disk)
                evgen.sink(self.stamp(own, feed.uuid, evgen.user, feed.name))

    def _flooded(self, feed: DiskFeed) -> None:
        self._counters.floods += 1
        self._log(logging.WARNING, floods.SAID, feed.domid, next(iter(feed.members)).vdev)
        self._drop_disk(feed)
        for evgen in list(feed.members):
            evgen.flooded = True
            evgen.sink(self.stamp(EventsLost(feed.domid, 1), feed.uuid, evgen.user, feed.name))

    def _report_shutdown(self, evgen: DomainDeathEvgen, feed: DomainFeed, event: DomainShutdown) -> None:
        if evgen._shutdown_reported or evgen._death_reported or evgen._feed is not feed:
            return
        evgen._shutdown_reported = True
        evgen._held_over = None
        evgen.sink(self.stamp(event, feed.uuid, evgen.user, feed.name))

    def _report_death(
        self, evgen: DomainDeathEvgen, uuid: UUID | None, name: str | None, event: Event | None = None
    ) -> None:
        if not evgen._death_reported:
            evgen._death_reported = True
            if name is None and uuid is not None:
                name = self.names.of((evgen.domid, uuid))
            evgen.sink(self.stamp(event or DomainDeath(evgen.domid), uuid, evgen.user, name))

    def _open_domain(self, info: DomainInfo) -> DomainFeed:
        feed = DomainFeed(info.domid, info.uuid, next(self._tokens))
        feed.engage(self._at_hand())
        self.by_token[feed.token] = feed
        self._domains.setdefault(info.domid, []).append(feed)
        self.names.ask(feed, self._side)
        return feed

    def _close(self, feed: DomainFeed | DiskFeed, later: bool = False) -> None:
        """`later`: when whoever waits for the event at hand has it."""
        if self.by_token.pop(feed.token, None) is None:
            return
        if isinstance(feed, DiskFeed):
            del self._disks[feed.domid, feed.devid]
        else:
            siblings = self._domains[feed.domid]
            siblings.remove(feed)
            if not siblings:
                del self._domains[feed.domid]
        if feed.handle is not None:
            (self._leaving.add if later else self._leaving.call)(feed.disengage())

    def _drop_disk(self, feed: DiskFeed) -> None:
        """The domain whose disk it was is gone."""
        for evgen in feed.members:
            evgen._feed = None
        self._close(feed)

    def _ask(self, domid: int, what: str) -> tuple[bool, DomainInfo | None]:
        try:
            return True, self._info(domid)
        except (LibxlError, Disaster) as error:
            self._log(logging.WARNING, "domain %d %s, but can't be asked for its UUID: %s", domid, what, error)
            return False, None

    def _info(self, domid: int) -> DomainInfo | None:
        return info_of(self._at_hand(), domid)

    def _at_hand(self) -> IEngine:
        assert self._engine is not None
        return self._engine
