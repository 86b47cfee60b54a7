# SPDX-License-Identifier: LGPL-2.1-or-later
"""Context: what an application uses. It owns an engine, at a hub, and serves the events from a queue of its own."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterable
from typing import Self, cast
from uuid import UUID

from gxl import hubhooks, whose
from gxl.arguments import check_filters, check_timeout, check_user, check_vdev
from gxl.closing import Closing
from gxl.domains import Domain, Listing, locate, locate_if_possible, located
from gxl.errors import ContextClosed, Outage, WaitTimeout
from gxl.events import EVENTMASK_ALL, DomainDeath, DomainShutdown, Event, EventType
from gxl.evgens import DiskEjectEvgen, DomainDeathEvgen, Evgen, check_own
from gxl.expect import Expectation
from gxl.following import Following
from gxl.interfaces import IEngine, IEventHooks, IHub, Predicate
from gxl.metrics import Metrics, snapshot
from gxl.opening import Engine, Opening
from gxl.pump import Pump
from gxl.shield import Shield
from gxl.toolstack import Toolstack
from gxl.watcher import Settings, Watcher, mask_of


class Context(Toolstack):
    """Domain events for cooperative code: one libxl_ctx, one event loop, one queue.

    `engine`: who speaks for Xen. None means $GXL_ENGINE, or "libxl"; else a name, or a callable that opens one, or
    an object that provides IEngine and is as good as new. `hub`: who owns the event loop. None means the one that this
    code runs in; else a name, or an object that provides IHub.

    A Context belongs to the process that made it and, where there is a loop, to its thread; its methods raise
    MisuseError elsewhere. All of them may be called from any greenlet, and from callbacks. Once closed, they raise
    ContextClosed; once libxl or xenstored is beyond help, Disaster. Close it, or use it as a context manager. Where the
    loop runs coroutines, whatever waits raises MisuseError, and names what to await instead.

    `recover`: when xenstored or libxl is lost, live on with another libxl_ctx instead of ending with a Disaster.

    Raises EngineUnavailable if there is no such engine here, with every attempt and its reason. ValueError: an engine
    that was given as an object can't be opened anew.
    """

    def __init__(self, engine: Engine | None = None, hub: str | IHub | None = None, *, recover: bool = False) -> None:
        self._closed = True
        opening = Opening(engine, recover)
        provider = hubhooks.provide(hub)
        with opening as opened:
            self._pump = Pump(opened, provider, bool(recover))
        self._closed = False

    @property
    def engine(self) -> IEngine:
        """The present engine: for asynchronous operations of your own, domain_info and list_domain, and no more."""
        return self._pump.reign.offered

    @property
    def outage(self) -> Outage | None:
        """While a Context that recovers is cut off from Xen: since when, why, and why the last attempt failed."""
        return self._pump.outage

    def event_check(
        self,
        typemask: int = EVENTMASK_ALL,
        predicate: Predicate | None = None,
        *,
        domid: int | str | UUID | None = None,
        user: int | None = None,
    ) -> Event | None:
        """The oldest event that has arrived and passes, removed from the queue; None if there is none.

        An event passes if its type is in `typemask` (see gxl.mask), it concerns `domid`, carries `user` as its
        for_user (None: any), and `predicate(event)` is true. A name or UUID instead of a domid is compared with those
        that the events carry, and not looked up. Never waits, and does no I/O: while your code keeps the hub busy,
        nothing arrives.

        A predicate must not block or switch. One that raises loses no event; the exception surfaces here.
        """
        with self._pump.lock:
            pump = self._enter()
            typemask, domid, user = check_filters(typemask, predicate, domid, user)
            event = whose.take(pump, typemask, predicate, domid, user)
            if event is None and pump.dead is not None:
                raise pump.dead.again()
            return event

    def event_wait(
        self,
        typemask: int = EVENTMASK_ALL,
        predicate: Predicate | None = None,
        timeout: float | None = None,
        *,
        domid: int | str | UUID | None = None,
        user: int | None = None,
    ) -> Event:
        """Like event_check, but waits, cooperatively, until there is such an event.

        Several may wait at once. An event that more than one of them wants goes to the one that began to wait first,
        and wakes no other. One that is killed, or whose time is up, takes nothing with it.

        A name or UUID instead of a domid that no event here carries is looked up: LookupError if neither a domain that
        there is, nor one that is watched, is called so, or if several are.

        `timeout`: seconds; None waits for ever, 0 does not wait. Raises WaitTimeout when they are over, ContextClosed
        if the context is closed meanwhile, Disaster if events may have been missed.
        """
        pump = self._pump
        if self._closed:
            raise _closed_error()
        pump.binding.check_caller()
        typemask, domid, user = check_filters(typemask, predicate, domid, user)
        if timeout is not None:
            timeout = check_timeout(timeout)
        if pump.coroutines is not None:
            pump.coroutines.check_can_block("use `async for event in ctx`, or await what ctx.expect() returns")
        if timeout == 0 or isinstance(domid, (str, UUID)):
            with pump.lock:
                pump.drain()
                return whose.wait(pump, typemask, predicate, timeout, domid, user)
        return pump.mailbox.wait(typemask, predicate, timeout, domid, user)

    def __aiter__(self) -> Self:
        """Where the loop runs coroutines, `async for event in ctx` takes every event, until the context is closed."""
        return self

    async def __anext__(self) -> Event:
        pump = self._enter()
        try:
            return await pump.mailbox.awaited()
        except ContextClosed:
            raise StopAsyncIteration from None

    def event_register_callbacks(self, hooks: IEventHooks | None) -> None:
        """Send the events of `hooks.event_occurs_mask` to `hooks.event_occurs` instead of the queue; None: none.

        Both callbacks (event_occurs, and disaster for reports that events may be missing) run one after the other, in
        the order of the events, in code that the hub spawned: they may block and may call gxl. One that raises is
        reported to the hub, and the next still runs. May be called at any time; the latest call counts for events that
        arrive from now on.

        Raises ValueError if the mask is not 0 and there is no event_occurs.
        """
        with self._pump.lock:
            pump = self._enter()
            pump.drain()
            pump.callbacks.register(hooks)

    def evenable_domain_death(
        self, domid: int | str | UUID, user: int = 0, *, present: bool = True
    ) -> DomainDeathEvgen:
        """Report the shutdown and the death of the domain that now has this domid (name, UUID: see domid_of).

        Each is reported once at most, in this order; a domain that is destroyed while it runs has only a death. What
        is true already (a domain that has shut down, is dying or does not exist) is reported at once; with
        `present=False` a shutdown that holds already is not, until the domain has run again: for those who watch a
        domain anew across its suspend. A domain that gets the same domid later is another one, and not reported.

        `user` comes back in the events' for_user. May be called several times for one domain: each evgen reports.
        """
        pump = self._enter_alive()
        user = check_user(user)
        return pump.feeds.watch_domain(locate(pump, domid), user, pump.accept, present)

    def evdisable_domain_death(self, evgen: DomainDeathEvgen) -> None:
        """Stop: evgen.disable(). Events that occurred before may still be returned."""
        self._disable(evgen, DomainDeathEvgen)

    def evenable_disk_eject(self, domid: int | str | UUID, vdev: str, user: int = 0) -> DiskEjectEvgen:
        """Report each time the guest ejects the medium of the disk that it sees as `vdev`.

        Several evgens on one disk each report each eject, under the name and user value that each was enabled with.
        What the event's `disk` says comes from the guest.
        """
        pump = self._enter_alive()
        vdev, user = check_vdev(vdev), check_user(user)
        return pump.feeds.watch_disk(locate(pump, domid), vdev, user, pump.accept)

    def evdisable_disk_eject(self, evgen: DiskEjectEvgen) -> None:
        """Stop: evgen.disable(). Events that occurred before may still be returned."""
        self._disable(evgen, DiskEjectEvgen)

    def follow_domains(self, user: int = 0) -> Following:
        """Report the shutdown and death of every domain: those that exist now, and each that appears later.

        Domain 0 is left out. Returns a context manager whose end (or disable()) ends it.
        """
        pump = self._enter_alive()
        return Following(pump, check_user(user), pump.accept)

    def watch(
        self,
        *domains: int | str | UUID,
        types: type[Event] | EventType | Iterable[type[Event] | EventType] | None = None,
        timeout: float | None = None,
        maxlen: int = 1000,
        overflow: str = "drop_newest",
    ) -> Watcher:
        """Iterate, by `for` or `async for`, over the shutdowns and deaths of `domains`, or of all domains.

        Without `domains` those are followed that exist, and those that appear later; domain 0 is left out. `domains`:
        see domid_of; a name is looked up, cooperatively. In a loop that runs coroutines that waits for the first
        `await`: `async with ctx.watch("web1") as watcher` has looked it up, and watches, when the block begins.
        `types`: only events of these. `timeout`: the iteration ends after so many seconds. Without it, an iteration
        over given domains ends when the last of them has died, and one over all domains never does.

        Nobody else sees these events, and nobody else's are taken. At most `maxlen` of them wait to be looped over;
        beyond that `overflow` says which are dropped: "drop_newest" or "drop_oldest". Either way an EventsLost stands
        in their place, whatever `types` says. Close it, or use it as a context manager, unless it was iterated to its
        end.
        """
        pump = self._enter_alive()
        settings = Settings.checked(types, timeout, maxlen, overflow)
        return Watcher(pump, locate_if_possible(pump, domains, settings.timeout) if domains else None, settings)

    def expect(
        self,
        types: type[Event] | EventType | Iterable[type[Event] | EventType],
        domain: int | str | UUID,
        *,
        vdev: str | None = None,
        predicate: Predicate | None = None,
    ) -> Expectation:
        """Arm first, act then, wait last: so the event can't slip through in between.

        `with ctx.expect(DomainDeath, domid) as death: ctx.domain_destroy(domid); event = death.wait(30)`

        `types`: DomainShutdown, DomainDeath or DiskEject, or several; an eject needs the disk's name, `vdev`.
        `predicate`: only an event for which it is true. The event is not taken from anybody else. `domain`: see
        domid_of. In a loop that runs coroutines, `async with` looks a name up, and the expectation is awaited.
        """
        pump = self._enter_alive()
        return Expectation(pump, locate_if_possible(pump, [domain])[0], mask_of(types), vdev, predicate)

    def wait_shutdown(self, domain: int | str | UUID, timeout: float | None = None) -> DomainShutdown | DomainDeath:
        """Wait until the domain has shut down, or has died without: at once if it is so already.

        Raises WaitTimeout after `timeout` seconds.
        """
        pump, timeout = self._enter_alive(), check_timeout(timeout)
        pump.check_can_block("`await ctx.await_shutdown(…)`")
        begin = time.monotonic()
        with self.expect(_END, locate(pump, domain, timeout)) as end:
            left = None if timeout is None else max(0.0, timeout - (time.monotonic() - begin))
            try:
                return cast(DomainShutdown | DomainDeath, end.wait(left))
            except WaitTimeout:
                raise WaitTimeout(f"{domain!r} has neither shut down nor died within {timeout} s") from None

    async def await_shutdown(self, domain: int | str | UUID) -> DomainShutdown | DomainDeath:
        """wait_shutdown(), where the loop runs coroutines, which bounds the time by itself."""
        async with self.expect(_END, domain) as end:
            return cast(DomainShutdown | DomainDeath, await end)

    def domid_of(self, domain: int | str | UUID) -> int:
        """The domid of a domain that is given by its domid, its name, or its UUID, as text, too.

        A domid is an int, and is taken as it is; a str never is one, so "7" is a name. Text that is the UUID of a
        domain means that one, whatever others are called. Looking up a name waits, cooperatively. LookupError says
        what there is, if there is no such domain, or if several have that name.
        """
        return locate(self._enter_alive(), domain)

    async def adomid_of(self, domain: int | str | UUID) -> int:
        """domid_of(), where the loop runs coroutines."""
        return await located(self._enter_alive(), domain)

    def list_domain(self) -> list[Domain]:
        """All domains as they are now, ascending by domid, with their names. Waits, cooperatively, for the names."""
        pump = self._enter_alive()
        pump.check_can_block("`await ctx.alist_domain()`, or use ctx.engine.list_domain(), which knows no names")
        with pump.lock:
            return Listing(pump).wait(None)

    async def alist_domain(self) -> list[Domain]:
        """list_domain(), where the loop runs coroutines."""
        return await Listing(self._enter_alive()).awaited()

    @property
    def queued(self) -> int:
        """How many events have arrived and wait to be taken."""
        return len(self._pump.mailbox)

    def metrics(self) -> Metrics:
        """What there is to count, as it is now. May be called after close(), and from any thread."""
        return snapshot(self._pump)

    @property
    def closed(self) -> bool:
        """Whether close() was called."""
        return self._closed

    def postfork_child_noexec(self) -> None:
        """In a forked child: let go of the parent's context. Done by itself after os.fork; harmless to repeat."""
        self._pump.forked()

    def close(self, timeout: float | None = None) -> None:
        """Disable all evgens, free libxl's context and let go of the loop. Repeated, it returns at once; callbacks may.

        Whoever waits gets ContextClosed. Events that were not taken are discarded. Operations that are still running
        are aborted, and waited for, cooperatively, for `timeout` seconds (None: as long as it takes); after that the
        libxl context is abandoned, and a ResourceWarning says so.
        """
        timeout = check_timeout(timeout)
        with self._pump.lock, Shield() as shield:
            closing = self._begin_closing(shield, "`await ctx.aclose()`, or use `async with`")
            if closing is not None:
                closing.wait(timeout)

    async def aclose(self, timeout: float | None = None) -> None:
        """close(), where the loop runs coroutines; `async with` does it, too."""
        timeout = check_timeout(timeout)
        with Shield() as shield:
            closing = self._begin_closing(shield)
            if closing is not None:
                await closing.awaited(timeout)

    def drop(self) -> None:
        """Close a Context that nothing was done with: that needs no waiting, and so is right everywhere."""
        with Shield() as shield:
            closing = self._begin_closing(shield)
            if closing is not None:
                closing.wait(0)

    def _begin_closing(self, shield: Shield, instead: str = "") -> Closing | None:
        pump = self._pump
        if self._closed or pump.in_child:
            self._closed = True
            return None
        pump.binding.check_caller()
        if instead:
            pump.check_can_block(instead)
        self._closed = True
        return Closing(pump, shield, _closed_error)

    def __enter__(self) -> Self:
        self._enter().check_can_block("use `async with`")
        return self

    async def __aenter__(self) -> Self:
        self._enter()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __del__(self) -> None:
        # Only warns: a finaliser may run in any greenlet and thread, and freeing a libxl context in the wrong one
        # would be worse than keeping it.
        if not self._closed and not self._pump.in_child:
            message = f"unclosed {self!r}: call close(), or use a with block"
            warnings.warn(message, ResourceWarning, stacklevel=1, source=self)

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open"
        return f"<gxl.Context {state} at {id(self):#x}>"

    def _enter(self) -> Pump:
        if self._closed:
            raise _closed_error()
        self._pump.binding.check_caller()
        return self._pump

    def _enter_alive(self) -> Pump:
        pump = self._enter()
        if pump.dead is not None:
            raise pump.dead.again()
        return pump

    def _disable(self, evgen: Evgen, kind: type[Evgen]) -> None:
        check_own(evgen, kind, self._enter().feeds)
        evgen.disable()


_END = (DomainShutdown, DomainDeath)


def _closed_error() -> ContextClosed:
    return ContextClosed("this Context is closed")
