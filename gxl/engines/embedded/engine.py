# SPDX-License-Identifier: LGPL-2.1-or-later
"""The embedded engine: IEngine over a simulated host, in this process and without libxl."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from zope.interface import implementer

from gxl import arguments
from gxl.engines.embedded.building import Building
from gxl.engines.embedded.children import SIGNAL, ChildprocMode, Children
from gxl.engines.embedded.core import Core, Entry, EventHooks
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
    IStoreConnection,
    NewDomain,
    Predicate,
    SigchldOwner,
)
from gxl.simhost import DomainInfo as SimDomainInfo
from gxl.simhost import SimHost


class _Ctx:
    """One libxl_ctx: every part of it, and no checks."""

    def __init__(self, host: SimHost | None) -> None:
        self.freed = True
        self.host = SimHost() if host is None else host
        self.owns_host = host is None
        try:
            connection = self.host.connect()
        except OSError as error:
            raise EngineUnavailable("the simulated host can't be used", (("xenstored", str(error)),)) from error
        self.core = Core()
        self.store = Store(self.core, connection)
        self.children = Children(self.core)
        self.deaths = Deaths(self.core, self.store, self.host)
        self.ejects = Ejects(self.core, self.store)
        self.operations = Operations(self.core, self.store, self.host, self.children)
        self.building = Building(self.operations)
        self.core.on_death = self.operations.fail_all
        self.freed = False

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
        self.freed = True
        self.core.refusal = "the engine is closed: ctx_free has been called"

    def __del__(self) -> None:
        if not self.freed and not self.core.in_child:
            warnings.warn("an embedded engine was dropped without ctx_free", ResourceWarning, stacklevel=1)


@implementer(IEngine)
class EmbeddedEngine:
    """One ctx on `host`, which is a SimHost; without one, the engine makes its own, and closes it at the end.

    Several engines can share a host, as several libxl contexts share a Xen host. All methods are IEngine's.
    """

    name = "embedded"
    version = "gxl's own, on a simulated host"
    builder = None

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
        checked = EventHooks() if hooks is None else _check_event_hooks(hooks)
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
        for name in ("fd_register", "fd_modify", "fd_deregister", "timeout_register", "timeout_modify"):
            if not callable(getattr(hooks, name, None)):
                raise TypeError(f"hooks must provide IOSEventHooks, and {hooks!r} has no {name}")
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
        with self._enter_alone("osevent_occurred_fd"):
            self._ctx.core.osevents.occurred_fd(for_libxl, fd)

    def osevent_occurred_timeout(self, for_libxl: object) -> None:
        with self._enter_alone("osevent_occurred_timeout"):
            self._ctx.core.osevents.occurred_timeout(for_libxl)

    def childproc_setmode(self, hooks: object | None) -> None:
        mode = ChildprocMode() if hooks is None else _check_childproc_hooks(hooks)
        with self._enter():
            if self._ctx.children:
                raise MisuseError("childproc_setmode while the engine has a child: call it at the start")
            self._ctx.children.set_mode(mode)

    def childproc_reaped(self, pid: int, status: int) -> bool:
        for what, value in (("pid", pid), ("status", status)):
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"{what} must be an int, not {value!r}")
        if not 0 < pid < 2**31 or not 0 <= status < 2**31:
            raise ValueError(f"pid and status must be as from waitpid, not {pid} and {status}")
        with self._enter():
            self._refuse_unless_mainloop("childproc_reaped")
            return self._ctx.children.reaped(pid, status)

    def childproc_sigchld_occurred(self) -> None:
        with self._enter():
            self._refuse_unless_mainloop("childproc_sigchld_occurred")
            self._ctx.children.check_all()

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
        _check_console(console)
        new = NewDomain()
        building = self._ctx.building
        self._operate(lambda operation: building.create(operation, checked, new, console), 0, how)
        return new

    def domain_create_restore(
        self, config: str, fd: int, how: AsyncHow | None = None, console: int | None = None
    ) -> NewDomain:
        checked = arguments.check_config(config)
        arguments.check_fd(fd)
        _check_console(console)
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
        _check_how(how)
        with self._ctx.core.enter():
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

    def _enter(self) -> Entry:
        self._check_owner()
        return self._ctx.core.enter()

    @contextmanager
    def _enter_alone(self, function: str) -> Iterator[None]:
        """For calls that the header forbids to make from inside any other, callbacks included."""
        with self._enter() as entry:
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
            _check_how(how)
        self._ctx.operations.run(begin, domid, how)

    def _refuse_unless_mainloop(self, function: str) -> None:
        mode = self._ctx.children.mode.owner
        if mode is not SigchldOwner.MAINLOOP:
            raise MisuseError(
                f"{function} is for SigchldOwner.MAINLOOP; in mode {mode.name} the engine reaps its children itself"
            )


def _refuse_nested(entry: Entry, function: str) -> None:
    if entry.nested:
        raise MisuseError(
            f"{function} can't be called from inside another engine call, its callbacks included: note what is to be "
            "done, and do it when that call has returned"
        )


def _check_now(now: float | None) -> float:
    if now is None:
        return time.time()
    if isinstance(now, bool) or not isinstance(now, (int, float)):
        raise TypeError(f"now must be seconds since the epoch or None, not {now!r}")
    if not 0 <= now < 2**62:
        raise ValueError(f"now must be seconds since the epoch, not {now!r}")
    return float(now)


def _check_pollfd(pollfd: Any) -> tuple[int, int, int]:
    match pollfd:
        case (fd, int(events), int(revents)):
            arguments.check_fd(fd)
        case _:
            raise TypeError(f"fds must be (fd, events, revents) tuples of ints, not {pollfd!r}")
    if not (-0x8000 <= events <= 0x7FFF and -0x8000 <= revents <= 0x7FFF):
        raise ValueError(f"events and revents must be bits of poll's, not {events}, {revents}")
    return fd, events, revents


def _check_console(console: int | None) -> None:
    if console is not None:
        arguments.check_user(console, "console")


def _check_how(how: AsyncHow) -> None:
    if not isinstance(how, AsyncHow):
        raise TypeError(f"how must be an AsyncHow, not {how!r}")


def _check_event_hooks(hooks: Any) -> EventHooks:
    try:
        checked = EventHooks(arguments.check_typemask(hooks.event_occurs_mask), hooks.event_occurs, hooks.disaster)
    except AttributeError as error:
        raise TypeError(f"hooks must provide IEventHooks, or be None: {error}") from error
    if checked.event_occurs is None and checked.event_occurs_mask:
        raise ValueError(f"event_occurs can be None only if event_occurs_mask is 0, not {checked.event_occurs_mask:#x}")
    for what, hook in (("event_occurs", checked.event_occurs), ("disaster", checked.disaster)):
        if hook is not None and not callable(hook):
            raise TypeError(f"{what} must be callable or None, not {hook!r}")
    return checked


def _check_childproc_hooks(hooks: Any) -> ChildprocMode:
    try:
        mode = ChildprocMode(SigchldOwner(hooks.chldowner), hooks.fork_replacement, hooks.reaped_callback)
    except AttributeError as error:
        raise TypeError(f"hooks must provide IChildProcHooks, or be None: {error}") from error
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
