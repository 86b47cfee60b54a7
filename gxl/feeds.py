# SPDX-License-Identifier: LGPL-2.1-or-later
"""From the engine's evgens to the application's: sharing, one life, present state, fan-out.

Every evgen of the engine's costs libxl time at each scan, two on one disk steal each other's ejects, and libxl knows a
domain only by its domid. So all interest in one domain, or one disk, is fed by one evgen of the engine's (its feed),
whose user value is a token that is never used again, and this room adds what libxl leaves out:

* One life. A feed remembers the domain's UUID. When the domid turns out to have another, the old life is dead.
* The latch. Each evgen of the application's reports one SHUTDOWN and one DEATH at most, whichever source is first.
* The present state. libxl looks at it only when its first evgen is enabled, so it is asked for at each enabling.
* A spent feed. libxl's evgens report one SHUTDOWN in their life, even if the domain resumes and shuts down again. Who
  comes after that needs a feed of their own.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Self
from uuid import UUID

from zope.interface import implementer

from gxl.arguments import devid
from gxl.errors import DomainNotFound, LibxlError
from gxl.events import DiskEject, DomainDeath, DomainShutdown, Event, ShutdownReason
from gxl.interfaces import DomainInfo, IEngine, IEvgen
from gxl.metrics import Counters
from gxl.sidechannel import SideChannel

Sink = Callable[[Event], object]


@implementer(IEvgen)
class Evgen:
    """Something that generates events until it is disabled: returned by Context.evenable_*.

    A context manager: `with ctx.evenable_domain_death(domid): …` disables it at the end of the block.
    """

    __slots__ = ("domid", "user", "_feeds", "_feed", "_sink", "__weakref__")

    def __init__(self, feeds: Feeds, domid: int, user: int, sink: Sink) -> None:
        self.domid = domid
        self.user = user
        self._feeds = feeds
        self._feed: _DomainFeed | _DiskFeed | None = None
        self._sink = sink

    def disable(self) -> None:
        """Stop generating events. Those that occurred before may still be returned. Idempotent.

        Raises MisuseError in a thread that the context does not belong to.
        """
        self._feeds.check_caller()
        if self._feed is not None:
            with self._feeds.lock:
                self._feeds.disable(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.disable()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} domid={self.domid} user={self.user}{'' if self._feed else ', disabled'}>"


class DomainDeathEvgen(Evgen):
    """Generates DomainShutdown and DomainDeath for one life of a domain, each once at most."""

    __slots__ = ("_shutdown_reported", "_death_reported", "_held_over")

    def __init__(self, feeds: Feeds, domid: int, user: int, sink: Sink) -> None:
        super().__init__(feeds, domid, user, sink)
        self._shutdown_reported = False
        self._death_reported = False
        self._held_over: tuple[int, ShutdownReason | int | None] | None = None

    @property
    def finished(self) -> bool:
        """Whether the death was reported: nothing comes after it."""
        return self._death_reported


class DiskEjectEvgen(Evgen):
    """Generates a DiskEject each time the guest ejects the medium of one disk."""

    __slots__ = ("vdev",)

    def __init__(self, feeds: Feeds, domid: int, user: int, sink: Sink, vdev: str) -> None:
        super().__init__(feeds, domid, user, sink)
        self.vdev = vdev


class _DomainFeed:
    __slots__ = ("domid", "uuid", "name", "named", "token", "handle", "members", "spent")

    def __init__(self, domid: int, uuid: UUID, token: int, handle: Any) -> None:
        self.domid = domid
        self.uuid = uuid
        self.name: str | None = None
        self.named = False
        self.token = token
        self.handle = handle
        self.members: dict[DomainDeathEvgen, None] = {}
        self.spent = False


class _DiskFeed:
    __slots__ = ("domid", "devid", "uuid", "name", "named", "token", "handle", "members")

    def __init__(self, domid: int, number: int, uuid: UUID | None, token: int, handle: Any) -> None:
        self.domid = domid
        self.devid = number
        self.uuid = uuid
        self.name: str | None = None
        self.named = False
        self.token = token
        self.handle = handle
        self.members: dict[DiskEjectEvgen, None] = {}


class Feeds:
    """All feeds of one Context."""

    def __init__(
        self,
        engine: IEngine,
        side: SideChannel,
        settle: Callable[[], object],
        lock: AbstractContextManager[object],
        check_caller: Callable[[], object],
        log: Callable[..., object],
        counters: Counters,
    ) -> None:
        self._counters = counters
        self.lock = lock
        self.check_caller = check_caller
        self._log = log
        self._engine = engine
        self._side = side
        # Delivers what the engine has reported already, so that a state is not judged before its events are.
        self._settle = settle
        self._tokens = itertools.count(1)
        self._seqs = itertools.count(1)
        self._by_token: dict[int, _DomainFeed | _DiskFeed] = {}
        self._domains: dict[int, list[_DomainFeed]] = {}
        self._disks: dict[tuple[int, int], _DiskFeed] = {}

    def watch_domain(self, domid: int, user: int, sink: Sink, present: bool) -> DomainDeathEvgen:
        """Begin to report one life of `domid`, the one that it has now, to `sink`."""
        with self.lock:
            return self._watch_domain(domid, user, sink, present)

    def _watch_domain(self, domid: int, user: int, sink: Sink, present: bool) -> DomainDeathEvgen:
        self._settle()
        info = self._info(domid)
        evgen = DomainDeathEvgen(self, domid, user, sink)
        for feed in list(self._domains.get(domid, ())):
            if info is None or feed.uuid != info.uuid:
                self._end(feed)
        if info is None or info.dying:
            self._report_death(evgen, None if info is None else info.uuid, None)
            return evgen
        feed = next((feed for feed in self._domains.get(domid, ()) if not feed.spent), None) or self._open_domain(info)
        evgen._feed = feed
        feed.members[evgen] = None
        if info.shutdown:
            if present:
                self._report_shutdown(evgen, feed, info.shutdown_reason)
            else:
                evgen._held_over = (info.cpu_time_ns, info.shutdown_reason)
        return evgen

    def watch_disk(self, domid: int, vdev: str, user: int, sink: Sink) -> DiskEjectEvgen:
        """Begin to report ejects of `vdev` to `sink`."""
        with self.lock:
            return self._watch_disk(domid, vdev, user, sink)

    def _watch_disk(self, domid: int, vdev: str, user: int, sink: Sink) -> DiskEjectEvgen:
        number = devid(vdev)
        self._settle()
        info = self._info(domid)
        evgen = DiskEjectEvgen(self, domid, user, sink, vdev)
        feed = self._disks.get((domid, number))
        if feed is not None and feed.uuid is not None and info is not None and feed.uuid != info.uuid:
            self._close_disk(feed)
            feed = None
        if feed is None:
            token = next(self._tokens)
            handle = self._engine.evenable_disk_eject(domid, vdev, token)
            feed = _DiskFeed(domid, number, None if info is None else info.uuid, token, handle)
            self._by_token[token] = feed
            self._disks[domid, number] = feed
            self._ask_name(feed)
        evgen._feed = feed
        feed.members[evgen] = None
        return evgen

    def live(self) -> tuple[int, int]:
        """How many evgens of the application's there are, and how many of the engine's feed them."""
        feeds = self._by_token.values()
        return sum(len(feed.members) for feed in feeds), len(feeds)

    def made(self, evgen: Evgen) -> bool:
        """Whether `evgen` came from here."""
        return evgen._feeds is self

    def disable(self, evgen: Evgen) -> None:
        """Take `evgen` off its feed, and the feed off the engine when it was the last. Idempotent."""
        if evgen._feed is None:
            return
        self._settle()
        feed, evgen._feed = evgen._feed, None
        if isinstance(feed, _DomainFeed) and isinstance(evgen, DomainDeathEvgen):
            feed.members.pop(evgen, None)
            if not feed.members:
                self._close_domain(feed)
        elif isinstance(feed, _DiskFeed) and isinstance(evgen, DiskEjectEvgen):
            feed.members.pop(evgen, None)
            if not feed.members:
                self._close_disk(feed)

    def resolve(self, event: Event, sink: Sink) -> None:
        """Deliver what the engine reported: an evgen's event to its members' sinks, any other to `sink`."""
        if not isinstance(event, (DomainShutdown, DomainDeath, DiskEject)):
            sink(self.stamp(event, None, event.for_user, None))
            return
        feed = self._by_token.get(event.for_user)
        if feed is not None and not feed.named:
            self._side.catch_up()
        if isinstance(feed, _DomainFeed):
            if isinstance(event, DomainShutdown):
                self._shutdown(feed, event.shutdown_reason)
            else:
                self._end(feed)
        elif isinstance(feed, _DiskFeed) and isinstance(event, DiskEject):
            self._eject(feed, event)
        else:
            self._log(logging.DEBUG, "dropped %r: nobody is interested any more", event)

    def check_lives(self, present: Iterable[DomainInfo]) -> None:
        """A domain appeared: see whether it took the domid of one that is being watched."""
        for info in present:
            for feed in list(self._domains.get(info.domid, ())):
                if feed.uuid != info.uuid:
                    self._end(feed)
                elif not info.shutdown:
                    for evgen in feed.members:
                        evgen._held_over = None

    def sever(self) -> None:
        """The engine is gone, and its handles with it: forget all feeds without touching them."""
        for feed in self._by_token.values():
            for evgen in feed.members:
                evgen._feed = None
        self._by_token.clear()
        self._domains.clear()
        self._disks.clear()

    def _shutdown(self, feed: _DomainFeed, reason: ShutdownReason | int) -> None:
        info = None
        try:
            info = self._info(feed.domid)
        except LibxlError as error:
            asking = "domain %d reported its shutdown, but can't be asked for its UUID: %s"
            self._log(logging.WARNING, asking, feed.domid, error)
        else:
            if info is None or info.uuid != feed.uuid:
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
                if evgen._held_over == (info.cpu_time_ns, reason):
                    held_over.append(evgen)
                    continue
            self._report_shutdown(evgen, feed, reason)
        if held_over:
            self._renew(feed, held_over)

    def _renew(self, feed: _DomainFeed, held_over: list[DomainDeathEvgen]) -> None:
        """Move evgens that still wait for a shutdown to a feed that can still report one.

        The new one is enabled before the old is disabled: while libxl's watch stands, enabling makes it look at
        nothing, and so the shutdown that was ignored is not reported again at once.
        """
        token = next(self._tokens)
        handle = self._engine.evenable_domain_death(feed.domid, token)
        fresh = _DomainFeed(feed.domid, feed.uuid, token, handle)
        fresh.name, fresh.named = feed.name, True
        self._by_token[token] = fresh
        self._domains[feed.domid].append(fresh)
        for evgen in held_over:
            if evgen._feed is feed:
                del feed.members[evgen]
                fresh.members[evgen] = None
                evgen._feed = fresh
        for idle in (feed, fresh):
            if not idle.members:
                self._close_domain(idle)

    def _end(self, feed: _DomainFeed) -> None:
        members = list(feed.members)
        for evgen in members:
            evgen._feed = None
        try:
            self._close_domain(feed)
        finally:
            for evgen in members:
                self._report_death(evgen, feed.uuid, feed.name)

    def _eject(self, feed: _DiskFeed, event: DiskEject) -> None:
        try:
            info = self._info(feed.domid)
        except LibxlError as error:
            asking = "domain %d ejected a disk, but can't be asked for its UUID: %s"
            self._log(logging.WARNING, asking, feed.domid, error)
            info = None
        if info is not None:
            if feed.uuid is None:
                feed.uuid = info.uuid
            elif feed.uuid != info.uuid:
                why = "dropped %r: it is from another domain than the one that was watched"
                self._log(logging.DEBUG, why, event)
                for stale in feed.members:
                    stale._feed = None
                self._close_disk(feed)
                return
        for evgen in list(feed.members):
            if evgen._feed is feed:
                own = DiskEject(event.domid, evgen.vdev, event.disk)
                evgen._sink(self.stamp(own, feed.uuid, evgen.user, feed.name))

    def _report_shutdown(self, evgen: DomainDeathEvgen, feed: _DomainFeed, reason: ShutdownReason | int | None) -> None:
        if evgen._shutdown_reported or evgen._death_reported or evgen._feed is not feed:
            return
        evgen._shutdown_reported = True
        evgen._held_over = None
        event = DomainShutdown(evgen.domid, ShutdownReason.POWEROFF if reason is None else reason)
        evgen._sink(self.stamp(event, feed.uuid, evgen.user, feed.name))

    def _report_death(self, evgen: DomainDeathEvgen, uuid: UUID | None, name: str | None) -> None:
        if not evgen._death_reported:
            evgen._death_reported = True
            evgen._sink(self.stamp(DomainDeath(evgen.domid), uuid, evgen.user, name))

    def stamp(self, event: Event, uuid: UUID | None, user: int, name: str | None) -> Event:
        """A copy of `event` with the next seq, as this context delivers it."""
        self._counters.events[event.type] += 1
        return event.stamped(uuid, user, next(self._seqs), time.time(), name)

    def _open_domain(self, info: DomainInfo) -> _DomainFeed:
        token = next(self._tokens)
        handle = self._engine.evenable_domain_death(info.domid, token)
        feed = _DomainFeed(info.domid, info.uuid, token, handle)
        self._by_token[token] = feed
        self._domains.setdefault(info.domid, []).append(feed)
        self._ask_name(feed)
        return feed

    def _close_domain(self, feed: _DomainFeed) -> None:
        if self._by_token.pop(feed.token, None) is None:
            return
        siblings = self._domains[feed.domid]
        siblings.remove(feed)
        if not siblings:
            del self._domains[feed.domid]
        self._engine.evdisable_domain_death(feed.handle)

    def _close_disk(self, feed: _DiskFeed) -> None:
        if self._by_token.pop(feed.token, None) is None:
            return
        del self._disks[feed.domid, feed.devid]
        self._engine.evdisable_disk_eject(feed.handle)

    def _ask_name(self, feed: _DomainFeed | _DiskFeed) -> None:
        def arrived(name: str | None) -> None:
            feed.name = name
            feed.named = True

        self._side.name_of(feed.domid, arrived)

    def _info(self, domid: int) -> DomainInfo | None:
        try:
            return self._engine.domain_info(domid)
        except DomainNotFound:
            return None
