# SPDX-License-Identifier: LGPL-2.1-or-later
"""The embedded engine: IEngine over a simulated host, in this process and without libxl."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import ClassVar

from zope.interface import implementer

from gxl import arguments
from gxl.engines.embedded import checks
from gxl.engines.embedded.children import SIGNAL
from gxl.engines.embedded.core import Entry, EventHooks
from gxl.engines.embedded.ctx import Ctx
from gxl.engines.embedded.deaths import DeathEvgen
from gxl.engines.embedded.ejects import EjectEvgen
from gxl.engines.embedded.operations import Operation
from gxl.errors import Disaster, DomainNotFound, Fail, MisuseError
from gxl.events import EVENTMASK_ALL, Event, shutdown_reason
from gxl.interfaces import (
    AsyncHow,
    DomainInfo,
    IEngine,
    IStoreConnection,
    ISuccession,
    NewDomain,
    Predicate,
    SigchldOwner,
)
from gxl.simhost import DomainInfo as SimDomainInfo
from gxl.simhost import SimHost


@implementer(IEngine)
class EmbeddedEngine:
    """libxl's events in Python, over a simulated host: for tests and demonstrations, without Xen.

    One ctx on `host`, which is a SimHost; None: `default_host`. All methods are IEngine's. Several engines can share a
    host, as several libxl contexts share a Xen host. Where there is no default host either, the engine makes one of
    its own, and closes it at the end.
    """

    default_host: ClassVar[SimHost | None] = None
    """The host of engines that are made without one, as by `gxl.Context(engine="embedded")`."""
    name = "embedded"
    version = "gxl's own, on a simulated host"
    builder = None
    hangup_fd = None

    def __init__(self, host: SimHost | None = None) -> None:
        if host is not None and not isinstance(host, SimHost):
            raise TypeError(f"host must be a SimHost, not {host!r}")
        self._ctx = Ctx(self.default_host if host is None else host)
        self._claimed = False

    @property
    def host(self) -> SimHost:
        """The simulated host."""
        return self._ctx.host

    @property
    def dead(self) -> Disaster | None:
        return self._ctx.core.dead

    def claim(
        self,
        no_switch: Callable[[], AbstractContextManager[object]],
        later: Callable[[Callable[[], object]], object] | None = None,
    ) -> EmbeddedEngine:
        ctx = self._ctx
        with self._enter_alone("claim"):
            for thing, there in (
                ("osevent hooks", ctx.core.osevents.hooks is not None),
                ("event callbacks", ctx.core.event_hooks != EventHooks()),
                ("evgens", ctx.evgens),
                ("operations under way", bool(ctx.operations)),
                ("events in its queue", len(ctx.core.queue) > 0),
            ):
                if there:
                    raise MisuseError(f"the engine has {thing} already: give a new one away, or use this one yourself")
            ctx.core.claimed = True
            ctx.core.guard = no_switch
            if later is not None:
                ctx.core.later = later
            claimed = object.__new__(type(self))
            claimed._ctx, claimed._claimed = ctx, False
            self._claimed = True
            return claimed

    def event_check(self, typemask: int = EVENTMASK_ALL, predicate: Predicate | None = None) -> Event | None:
        take = self._taker(typemask, predicate)
        with self._enter():
            return take()

    def event_wait(self, typemask: int = EVENTMASK_ALL, predicate: Predicate | None = None) -> Event:
        take = self._taker(typemask, predicate)
        self._check_owner()
        return self._ctx.core.run_until(take)

    def event_register_callbacks(self, hooks: object | None) -> None:
        checked = checks.check_event_hooks(hooks)
        with self._enter_alone("event_register_callbacks"):
            if self._ctx.evgens:
                raise MisuseError("event_register_callbacks while evgens are enabled: call it before the first")
            self._ctx.core.event_hooks = checked

    def evenable_domain_death(self, domid: int, user: int = 0) -> DeathEvgen:
        arguments.check_domid(domid)
        arguments.check_user(user)
        with self._enter():
            return self._ctx.deaths.enable(domid, user)

    def evdisable_domain_death(self, evgen: object) -> None:
        with self._enter(even_dead=True):
            self._ctx.deaths.disable(evgen)

    def evenable_disk_eject(self, domid: int, vdev: str, user: int = 0) -> EjectEvgen:
        arguments.check_domid(domid)
        arguments.check_vdev(vdev)
        arguments.check_user(user)
        with self._enter():
            return self._ctx.ejects.enable(domid, vdev, user)

    def evdisable_disk_eject(self, evgen: object) -> None:
        with self._enter(even_dead=True):
            self._ctx.ejects.disable(evgen)

    def osevent_beforepoll(self, now: float | None = None) -> tuple[list[tuple[int, int]], int | None]:
        moment = checks.check_now(now)
        with self._enter():
            osevents = self._ctx.core.osevents
            return osevents.beforepoll(osevents.app_poller, moment)

    def osevent_afterpoll(self, fds: Sequence[tuple[int, int, int]], now: float | None = None) -> None:
        moment = checks.check_now(now)
        checked = [checks.check_pollfd(pollfd) for pollfd in fds]
        with self._enter():
            osevents = self._ctx.core.osevents
            osevents.afterpoll(osevents.app_poller, checked, moment)

    def osevent_register_hooks(self, hooks: object) -> None:
        checks.check_osevent_hooks(hooks)
        with self._enter_alone("osevent_register_hooks"):
            osevents = self._ctx.core.osevents
            if osevents.hooks is not None:
                raise MisuseError("osevent_register_hooks: this engine has hooks already, and keeps them")
            if osevents.interested or self._ctx.evgens or self._ctx.operations:
                raise MisuseError(
                    "osevent_register_hooks: the engine is interested in fds already; register hooks before evgens, "
                    "operations and the `always` modes of childproc_setmode"
                )
            osevents.hooks = hooks

    def osevent_occurred_fd(self, for_libxl: object, fd: int, events: int, revents: int) -> None:
        arguments.check_fd(fd)
        with self._enter_alone("osevent_occurred_fd", even_dead=True):
            self._ctx.core.osevents.occurred_fd(for_libxl, fd)

    def osevent_occurred_timeout(self, for_libxl: object) -> None:
        with self._enter_alone("osevent_occurred_timeout", even_dead=True):
            self._ctx.core.osevents.occurred_timeout(for_libxl)

    def childproc_setmode(self, hooks: object | None) -> None:
        mode = checks.check_childproc_hooks(hooks)
        with self._enter():
            if self._ctx.children:
                raise MisuseError("childproc_setmode while the engine has a child: call it at the start")
            self._ctx.children.set_mode(mode)

    def childproc_reaped(self, pid: int, status: int) -> bool:
        checks.check_reaped(pid, status)
        with self._enter(even_dead=True):
            self._refuse_unless_mainloop("childproc_reaped")
            return self._ctx.children.reaped(pid, status)

    def childproc_sigchld_occurred(self) -> None:
        with self._enter():
            self._refuse_unless_mainloop("childproc_sigchld_occurred")
            self._ctx.children.check_all()

    def succession(self) -> ISuccession:
        self._check_owner()
        self._ctx.core.check_usable()
        owned, self._ctx.owns_host = self._ctx.owns_host, False
        return _Succession(self.host, owned)

    def postfork_child_noexec(self) -> None:
        self._check_owner()
        core = self._ctx.core
        if not core.in_child:
            raise MisuseError("postfork_child_noexec is for a forked child: here it would cut off the engine")
        if core.refusal:
            raise MisuseError("postfork_child_noexec has been called, or the engine was closed before the fork")
        core.refusal = "postfork_child_noexec has been called: open another engine in this process"
        SIGNAL.restore()

    def ctx_free(self) -> None:
        ctx = self._ctx
        self._check_owner()
        if ctx.freed and not ctx.core.in_child:
            return
        ctx.core.check_usable()
        with Entry(ctx.core) as entry:
            _refuse_nested(entry, "ctx_free")
            if len(ctx.core.inside) > 1 or ctx.core.osevents.awaited:
                raise MisuseError("ctx_free while another thread is inside the engine: let it finish first")
            if ctx.operations or ctx.children:
                raise MisuseError(
                    "ctx_free with operations or children pending: ao_abort the operations, and go on until all have "
                    "ended and their children are reaped"
                )
            ctx.free()

    def domain_pause(self, domid: int, how: AsyncHow | None = None) -> None:
        self._operate(self._ctx.operations.pause, domid, how)

    def domain_unpause(self, domid: int, how: AsyncHow | None = None) -> None:
        self._operate(self._ctx.operations.unpause, domid, how)

    def domain_shutdown(self, domid: int, how: AsyncHow | None = None) -> None:
        self._operate(self._ctx.operations.shut_down, domid, how)

    def domain_reboot(self, domid: int, how: AsyncHow | None = None) -> None:
        self._operate(self._ctx.operations.reboot, domid, how)

    def domain_destroy(self, domid: int, how: AsyncHow | None = None) -> None:
        self._operate(self._ctx.operations.destroy, domid, how)

    def domain_create_new(self, config: str, how: AsyncHow | None = None, console: int | None = None) -> NewDomain:
        checked = arguments.check_config(config)
        checks.check_console(console)
        new = NewDomain()
        building = self._ctx.building
        self._operate(lambda operation: building.create(operation, checked, new, console), 0, how)
        return new

    def domain_create_restore(
        self, config: str, fd: int, how: AsyncHow | None = None, console: int | None = None
    ) -> NewDomain:
        checked = arguments.check_config(config)
        arguments.check_fd(fd)
        checks.check_console(console)
        new = NewDomain()
        building = self._ctx.building
        self._operate(lambda operation: building.restore(operation, checked, fd, new, console), 0, how)
        return new

    def domain_suspend(self, domid: int, fd: int, live: bool = False, how: AsyncHow | None = None) -> None:
        arguments.check_fd(fd)
        self._operate(lambda operation: self._ctx.building.suspend(operation, fd), domid, how)

    def cdrom_insert(
        self, domid: int, vdev: str, path: str | None, format: str = "raw", how: AsyncHow | None = None
    ) -> None:
        arguments.check_vdev(vdev)
        arguments.check_image(path, format)
        self._operate(lambda operation: self._ctx.building.insert(operation, vdev, path, format), domid, how)

    def ao_abort(self, how: AsyncHow) -> None:
        checks.check_how(how)
        with self._ctx.core.enter(even_dead=True):
            self._ctx.operations.abort(how)

    def domain_info(self, domid: int) -> DomainInfo:
        arguments.check_domid(domid)
        with self._ctx.core.enter():
            try:
                listed = self.host.hypercalls.getdomaininfolist(domid, 1)
            except OSError as error:
                raise Fail(message=f"the state of domain {domid} can't be had: {error}") from error
        if not listed or listed[0].domid != domid:
            raise DomainNotFound(message=f"there is no domain {domid}")
        return _domain_info(listed[0])

    def list_domain(self) -> list[DomainInfo]:
        with self._ctx.core.enter():
            try:
                return list(map(_domain_info, self.host.hypercalls.getdomaininfolist(0, arguments.DOMID_LIMIT)))
            except OSError as error:
                raise Fail(message=f"the domains can't be listed: {error}") from error

    def xenstore_connect(self) -> IStoreConnection:
        with self._ctx.core.enter():
            return self.host.connect()

    def _check_owner(self) -> None:
        if self._claimed:
            raise MisuseError(
                "this engine belongs to a Context, which takes its events; what is left to others is asynchronous "
                "operations, ao_abort, domain_info, list_domain and xenstore_connect"
            )

    def _enter(self, even_dead: bool = False) -> Entry:
        self._check_owner()
        return self._ctx.core.enter(even_dead)

    @contextmanager
    def _enter_alone(self, function: str, even_dead: bool = False) -> Iterator[None]:
        """For calls that the header forbids to make from inside any other, callbacks included."""
        with self._enter(even_dead) as entry:
            _refuse_nested(entry, function)
            yield

    def _taker(self, typemask: int, predicate: Predicate | None) -> Callable[[], Event | None]:
        arguments.check_typemask(typemask)
        if predicate is None:
            return lambda: self._ctx.core.queue.take(typemask)
        if not callable(predicate):
            raise TypeError(f"predicate must be callable, not {predicate!r}")

        def take() -> Event | None:
            with self._ctx.core.guard():
                return self._ctx.core.queue.take(typemask, predicate)

        return take

    def _operate(self, begin: Callable[[Operation], None], domid: int, how: AsyncHow | None) -> None:
        arguments.check_domid(domid)
        if how is None:
            self._check_owner()
        else:
            checks.check_how(how)
        self._ctx.operations.run(begin, domid, how)

    def _refuse_unless_mainloop(self, function: str) -> None:
        mode = self._ctx.children.mode.owner
        if mode is not SigchldOwner.MAINLOOP:
            raise MisuseError(
                f"{function} is for SigchldOwner.MAINLOOP; in mode {mode.name} the engine reaps its children itself"
            )


@implementer(ISuccession)
class _Succession:
    """Engines on one host, of which the next one takes over the host if its predecessor had made it."""

    def __init__(self, host: SimHost, owned: bool) -> None:
        self._host = host
        self._owned = owned

    def xenstore_connect(self) -> IStoreConnection:
        return self._host.connect()

    def open(self) -> EmbeddedEngine:
        engine = EmbeddedEngine(self._host)
        engine._ctx.owns_host, self._owned = self._owned, False
        return engine


def _refuse_nested(entry: Entry, function: str) -> None:
    if entry.nested:
        raise MisuseError(
            f"{function} can't be called from inside another engine call, its callbacks included: note what is to be "
            "done, and do it when that call has returned"
        )


def _domain_info(info: SimDomainInfo) -> DomainInfo:
    return DomainInfo(
        domid=info.domid,
        uuid=info.uuid,
        running=info.running,
        blocked=info.blocked,
        paused=info.paused,
        shutdown=info.shutdown,
        dying=info.dying,
        shutdown_reason=shutdown_reason(info.shutdown_reason) if info.shutdown else None,
        current_memory_kb=info.memory_kb,
        max_memory_kb=info.memory_kb,
        cpu_time_ns=info.cpu_time_ns,
    )
