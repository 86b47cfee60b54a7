# SPDX-License-Identifier: LGPL-2.1-or-later
"""The embedded engine: IEngine over a simulated host, in this process and without libxl."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from errno import ESRCH
from typing import Any, NamedTuple

from zope.interface import implementer

from gxl import arguments
from gxl.engines.embedded.children import SIGNAL, ChildprocMode, Children
from gxl.engines.embedded.core import Core, Entry, invalidate_all
from gxl.engines.embedded.deaths import DeathEvgen, Deaths
from gxl.engines.embedded.ejects import EjectEvgen, Ejects
from gxl.engines.embedded.operations import Operation, Operations
from gxl.engines.embedded.store import Store
from gxl.errors import Disaster, DomainNotFound, EngineUnavailable, Fail, MisuseError
from gxl.events import EVENTMASK_ALL, Event, shutdown_reason
from gxl.interfaces import (
    AsyncHow,
    DomainInfo,
    IEngine,
    IOSEventHooks,
    IStoreConnection,
    Predicate,
    SigchldOwner,
)
from gxl.simhost import DomainInfo as SimDomainInfo
from gxl.simhost import SimHost


class EventHooks(NamedTuple):
    """IEventHooks, checked."""

    event_occurs_mask: int
    event_occurs: Callable[[Event], object] | None
    disaster: Callable[[int, str, int], object] | None


class _Ctx:
    """One libxl_ctx: every part of it, and no checks."""

    def __init__(self, host: SimHost | None) -> None:
        self.host = SimHost() if host is None else host
        self.owns_host = host is None
        self.core = Core()
        try:
            connection = self.host.connect()
        except OSError as error:
            self.core.osevents.close()
            raise EngineUnavailable("the simulated host can't be used", (("xenstored", str(error)),)) from error
        self.store = Store(self.core, connection)
        self.children = Children(self.core)
        self.deaths = Deaths(self.core, self.store, self.host)
        self.ejects = Ejects(self.core, self.store)
        self.operations = Operations(self.core, self.store, self.host, self.children)
        self.core.on_death = self.operations.fail_all

    @property
    def evgens(self) -> bool:
        return bool(self.deaths or self.ejects)

    def free(self) -> None:
        self.deaths.disable_all()
        self.ejects.disable_all()
        self.children.close()
        self.core.osevents.close()
        self.store.close()
        self.core.queue.clear()
        if self.owns_host:
            self.host.close()


@implementer(IEngine)
class EmbeddedEngine:
    """One ctx on `host`, which is a SimHost; without one, the engine makes its own, and closes it at the end.

    Several engines can share a host, as several libxl contexts share a Xen host. All methods are IEngine's.
    """

    name = "embedded"
    version = "gxl's own, on a simulated host"

    def __init__(self, host: SimHost | None = None) -> None:
        if host is not None and not isinstance(host, SimHost):
            raise TypeError(f"host must be a SimHost, not {host!r}")
        self._ctx = _Ctx(host)
        self._claimed = False

    @property
    def host(self) -> SimHost:
        """The simulated host."""
        return self._ctx.host

    @property
    def dead(self) -> Disaster | None:
        return self._ctx.core.dead

    def claim(self, no_switch: Callable[[], AbstractContextManager[object]]) -> EmbeddedEngine:
        ctx = self._ctx
        with self._enter():
            if (
                ctx.core.osevents.hooks is not None
                or ctx.core.event_hooks is not None
                or ctx.evgens
                or ctx.operations
                or ctx.children.always
                or ctx.core.entries > 1
                or len(ctx.core.queue)
            ):
                raise MisuseError(
                    "a Context needs an engine that nobody has used: this one has hooks, evgens, operations or queued "
                    "events, or somebody is inside it; open another one"
                )
            ctx.core.guard = no_switch
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
        checked = None if hooks is None else _check_event_hooks(hooks)
        with self._enter():
            if self._ctx.evgens:
                raise MisuseError("callbacks can't be registered while evgens are enabled: disable them first")
            self._refuse_reentry("event_register_callbacks")
            self._ctx.core.event_hooks = checked

    def evenable_domain_death(self, domid: int, user: int = 0) -> DeathEvgen:
        arguments.check_domid(domid)
        arguments.check_user(user)
        with self._enter():
            return self._ctx.deaths.enable(domid, user)

    def evdisable_domain_death(self, evgen: object) -> None:
        with self._enter():
            self._ctx.deaths.disable(evgen)

    def evenable_disk_eject(self, domid: int, vdev: str, user: int = 0) -> EjectEvgen:
        arguments.check_domid(domid)
        arguments.check_vdev(vdev)
        arguments.check_user(user)
        with self._enter():
            return self._ctx.ejects.enable(domid, vdev, user)

    def evdisable_disk_eject(self, evgen: object) -> None:
        with self._enter():
            self._ctx.ejects.disable(evgen)

    def osevent_beforepoll(self, now: float | None = None) -> tuple[list[tuple[int, int]], int | None]:
        moment = _check_now(now)
        with self._enter():
            osevents = self._ctx.core.osevents
            return osevents.beforepoll(osevents.app_poller, moment)

    def osevent_afterpoll(self, fds: Sequence[tuple[int, int, int]], now: float | None = None) -> None:
        moment = _check_now(now)
        checked = [_check_pollfd(pollfd) for pollfd in fds]
        with self._enter():
            osevents = self._ctx.core.osevents
            osevents.afterpoll(osevents.app_poller, checked, moment)

    def osevent_register_hooks(self, hooks: object) -> None:
        for name in IOSEventHooks.names():
            if not callable(getattr(hooks, name, None)):
                raise TypeError(f"hooks must provide IOSEventHooks; {hooks!r} has no method {name}")
        with self._enter():
            osevents = self._ctx.core.osevents
            if osevents.hooks is not None:
                raise MisuseError("hooks are registered already, and a ctx takes them only once: open another engine")
            if osevents.interested:
                raise MisuseError("hooks must be registered before the first evgen, operation or always-mode")
            osevents.hooks = hooks

    def osevent_occurred_fd(self, for_libxl: object, fd: int, events: int, revents: int) -> None:
        arguments.check_fd(fd)
        with self._enter():
            self._ctx.core.osevents.occurred_fd(for_libxl, fd)

    def osevent_occurred_timeout(self, for_libxl: object) -> None:
        with self._enter():
            self._ctx.core.osevents.occurred_timeout(for_libxl)

    def childproc_setmode(self, hooks: object | None) -> None:
        mode = ChildprocMode() if hooks is None else _check_childproc_hooks(hooks)
        with self._enter():
            if self._ctx.children:
                raise MisuseError("the mode can't be changed while the engine has a child: wait for its operation")
            self._ctx.children.set_mode(mode)

    def childproc_reaped(self, pid: int, status: int) -> bool:
        for what, value in (("pid", pid), ("status", status)):
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"{what} must be an int, not {value!r}")
        with self._enter():
            self._refuse_unless_mainloop("childproc_reaped")
            return self._ctx.children.reaped(pid, status)

    def childproc_sigchld_occurred(self) -> None:
        with self._enter():
            self._refuse_unless_mainloop("childproc_sigchld_occurred")
            self._ctx.children.check_all()

    def postfork_child_noexec(self) -> None:
        invalidate_all()
        SIGNAL.restore()

    def ctx_free(self) -> None:
        ctx = self._ctx
        if ctx.core.closed:
            return
        ctx.core.check_usable()
        self._check_owner()
        with Entry(ctx.core):
            self._refuse_reentry("ctx_free")
            if ctx.core.dead is None and (ctx.operations or ctx.children):
                raise MisuseError(
                    "the engine has an operation or a child under way: abort it, and let the loop run until it ends"
                )
            ctx.free()
            ctx.core.closed = True

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

    def ao_abort(self, how: AsyncHow) -> None:
        _check_how(how)
        with self._ctx.core.enter():
            self._ctx.operations.abort(how)

    def domain_info(self, domid: int) -> DomainInfo:
        arguments.check_domid(domid)
        with self._ctx.core.enter():
            try:
                return _domain_info(self.host.hypercalls.getdomaininfo(domid))
            except OSError as error:
                if error.errno == ESRCH:
                    raise DomainNotFound(message=f"there is no domain {domid}") from None
                raise Fail(message=f"the state of domain {domid} can't be had: {error}") from error

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
            raise MisuseError("a Context owns this engine: use its methods, since a second pump would steal events")

    def _enter(self) -> Entry:
        self._check_owner()
        return self._ctx.core.enter()

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
            _check_how(how)
        self._ctx.operations.run(begin, domid, how)

    def _refuse_reentry(self, what: str) -> None:
        if self._ctx.core.entries > 1:
            raise MisuseError(f"{what} was called while another call is inside the engine, or from its callback")

    def _refuse_unless_mainloop(self, what: str) -> None:
        if self._ctx.children.mode.owner is not SigchldOwner.MAINLOOP:
            raise MisuseError(f"{what} is for SigchldOwner.MAINLOOP only; in the present mode the engine itself reaps")


def _check_now(now: float | None) -> float:
    if now is None:
        return time.time()
    if isinstance(now, bool) or not isinstance(now, (int, float)):
        raise TypeError(f"now must be seconds since the epoch or None, not {now!r}")
    return float(now)


def _check_pollfd(pollfd: Any) -> tuple[int, int, int]:
    match pollfd:
        case (int(fd), int(events), int(revents)):
            return fd, events, revents
    raise TypeError(f"fds must be (fd, events, revents) tuples of ints, not {pollfd!r}")


def _check_how(how: AsyncHow) -> None:
    if not isinstance(how, AsyncHow):
        raise TypeError(f"how must be an AsyncHow, not {how!r}")


def _check_event_hooks(hooks: Any) -> EventHooks:
    checked = EventHooks(arguments.check_typemask(hooks.event_occurs_mask), hooks.event_occurs, hooks.disaster)
    if checked.event_occurs is None and checked.event_occurs_mask:
        raise ValueError(f"event_occurs can be None only if event_occurs_mask is 0, not {checked.event_occurs_mask:#x}")
    for what, hook in (("event_occurs", checked.event_occurs), ("disaster", checked.disaster)):
        if hook is not None and not callable(hook):
            raise TypeError(f"{what} must be callable or None, not {hook!r}")
    return checked


def _check_childproc_hooks(hooks: Any) -> ChildprocMode:
    mode = ChildprocMode(SigchldOwner(hooks.chldowner), hooks.fork_replacement, hooks.reaped_callback)
    for what, hook in (("fork_replacement", mode.fork_replacement), ("reaped_callback", mode.reaped_callback)):
        if hook is not None and not callable(hook):
            raise TypeError(f"{what} must be callable or None, not {hook!r}")
    return mode


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
