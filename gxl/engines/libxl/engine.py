# SPDX-License-Identifier: LGPL-2.1-or-later
"""LibxlEngine: one libxl_ctx on the real libxenlight."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from zope.interface import implementer

from gxl.arguments import check_config, check_domid, check_fd, check_image, check_typemask, check_user, check_vdev
from gxl.engines.libxl import building, info, polling, store
from gxl.engines.libxl.calls import Call
from gxl.engines.libxl.collecting import Lost
from gxl.engines.libxl.ctx import Ctx
from gxl.engines.libxl.evgens import DiskEjectEvgen, DomainDeathEvgen
from gxl.errors import Disaster, MisuseError
from gxl.events import EVENTMASK_ALL, Event
from gxl.interfaces import AsyncHow, DomainInfo, ICollectedEngine, IStoreConnection, ISuccession, NewDomain, Predicate


@implementer(ICollectedEngine)
class LibxlEngine:
    """An IEngine that is the real libxl, with a new libxl_ctx of its own.

    Raises EngineUnavailable, which lists what was tried, where there is no libxenlight, none that gxl knows, no Xen,
    no permission or no xenstored. $GXL_LIBXENLIGHT names the library, instead of the one that fits the hypervisor.

    Threads may share an engine, as the header has it: a call that blocks keeps no other thread out. Only event_wait,
    osevent_beforepoll and osevent_afterpoll are for one thread, or for several that all use event_wait. A blocking
    operation sleeps through signals; event_wait does not.
    """

    name = "libxl"
    builder = "libxl"

    def __init__(self) -> None:
        self._become(Ctx())

    def _become(self, ctx: Ctx) -> None:
        self._ctx = ctx
        self._enter: Callable[..., Call] = ctx.enter
        self._claimed = False
        self.version = ctx.library.version

    def __repr__(self) -> str:
        return f"<LibxlEngine {self.version}>"

    @property
    def dead(self) -> Disaster | None:
        return self._ctx.dead

    @property
    def hangup_fd(self) -> int | None:
        return self._ctx.hangup_fd

    def claim(
        self,
        no_switch: Callable[[], AbstractContextManager[object]],
        later: Callable[[Callable[[], object]], object] | None = None,
    ) -> LibxlEngine:
        ctx = self._ctx
        call = self._enter("claim", nested=False)
        try:
            for thing, there in (
                ("osevent hooks", ctx.osevents.hooks is not None),
                ("event callbacks", ctx.events.event_occurs is not None or ctx.events.disaster_hook is not None),
                ("evgens", len(ctx.evgens) > 0),
                ("operations under way", ctx.operations.in_progress() > 0),
                ("events in its queue", bool(ctx.events.queued(call, EVENTMASK_ALL))),
            ):
                if there:
                    raise MisuseError(f"the engine has {thing} already: give a new one away, or use this one yourself")
            owner = LibxlEngine.__new__(LibxlEngine)
            owner._become(ctx)
            ctx.watch_hangup()
            ctx.claimed = True
            ctx.no_switch = no_switch
            ctx.log.later = later
            self._claimed = True
            self._enter = self._refuse
            return owner
        finally:
            ctx.leave(call)

    def _refuse(self, function: str, nested: bool = True, even_dead: bool = False) -> Call:
        raise MisuseError(
            f"{function}: this engine belongs to a Context, which takes its events; what is left to others is "
            "asynchronous operations, ao_abort, domain_info, list_domain and xenstore_connect"
        )

    # Events

    def event_check(self, typemask: int = EVENTMASK_ALL, predicate: Predicate | None = None) -> Event | None:
        _check_filter(typemask, predicate)
        call = self._enter("event_check")
        try:
            return self._ctx.events.check(call, typemask, predicate)
        finally:
            self._ctx.leave(call)

    def event_wait(self, typemask: int = EVENTMASK_ALL, predicate: Predicate | None = None) -> Event:
        _check_filter(typemask, predicate)
        call = self._enter("event_wait")
        try:
            return polling.wait(self._ctx, call, typemask, predicate)
        finally:
            self._ctx.leave(call)

    def event_notify(self, notice: Callable[[], object], into: deque[Any], limit: int) -> None:
        call = self._enter("event_notify")
        try:
            self._ctx.notice = notice
            self._ctx.collecting.take_into(into, limit)
        finally:
            self._ctx.leave(call)

    def event_collect(self, into: deque[Any], limit: int) -> bool:
        # Without enter and leave, which would cost as much as libxl: nothing of anybody's runs inside event_check.
        if self._claimed or self._ctx.refusal is not None:
            self._ctx.leave(self._enter("event_collect", even_dead=True))
        try:
            return self._ctx.collecting.collect(into, limit)
        except Lost as lost:
            call = self._enter("event_collect", even_dead=True)
            try:
                self._ctx.collecting.tell_of(call, lost)
            finally:
                self._ctx.leave(call)
            return True

    def event_register_callbacks(self, hooks: object | None) -> None:
        call = self._enter("event_register_callbacks", nested=False)
        try:
            if self._ctx.evgens:
                raise MisuseError("event_register_callbacks while evgens are enabled: call it before the first")
            self._ctx.events.register(hooks)
        finally:
            self._ctx.leave(call)

    def evenable_domain_death(self, domid: int, user: int = 0) -> DomainDeathEvgen:
        check_domid(domid)
        check_user(user)
        call = self._enter("evenable_domain_death")
        try:
            return self._ctx.evgens.enable_death(call, domid, user)
        finally:
            self._ctx.leave(call)

    def evdisable_domain_death(self, evgen: object) -> None:
        ctx = self._ctx
        call = self._enter("evdisable_domain_death", True, True)
        try:
            ctx.evgens.disable(call, evgen, DomainDeathEvgen)
        finally:
            ctx.leave(call)

    def evenable_disk_eject(self, domid: int, vdev: str, user: int = 0) -> DiskEjectEvgen:
        check_domid(domid)
        check_vdev(vdev)
        check_user(user)
        call = self._enter("evenable_disk_eject")
        try:
            return self._ctx.evgens.enable_eject(call, domid, vdev, user)
        finally:
            self._ctx.leave(call)

    def evdisable_disk_eject(self, evgen: object) -> None:
        call = self._enter("evdisable_disk_eject", even_dead=True)
        try:
            self._ctx.evgens.disable(call, evgen, DiskEjectEvgen)
        finally:
            self._ctx.leave(call)

    # Fds and timeouts

    def osevent_beforepoll(self, now: float | None = None) -> tuple[list[tuple[int, int]], int | None]:
        call = self._enter("osevent_beforepoll")
        try:
            return polling.beforepoll(self._ctx, now)
        finally:
            self._ctx.leave(call)

    def osevent_afterpoll(self, fds: Sequence[tuple[int, int, int]], now: float | None = None) -> None:
        call = self._enter("osevent_afterpoll")
        try:
            polling.afterpoll(self._ctx, fds, now)
            self._ctx.collecting.found(call)
        finally:
            self._ctx.leave(call)

    def osevent_register_hooks(self, hooks: object) -> None:
        ctx = self._ctx
        call = self._enter("osevent_register_hooks", nested=False)
        try:
            if ctx.osevents.hooks is not None:
                raise MisuseError("osevent_register_hooks: this engine has hooks already, and keeps them")
            if ctx.evgens or ctx.operations.in_progress() or ctx.children.pending() or ctx.children.always():
                raise MisuseError(
                    "osevent_register_hooks: the engine is interested in fds already; register hooks before evgens, "
                    "operations and the `always` modes of childproc_setmode"
                )
            ctx.osevents.register(hooks)
        finally:
            ctx.leave(call)

    def osevent_occurred_fd(self, for_libxl: object, fd: int, events: int, revents: int) -> None:
        ctx = self._ctx
        call = self._enter("osevent_occurred_fd", False, True)
        try:
            ctx.osevents.occurred_fd(for_libxl, fd, events, revents)
            ctx.collecting.found(call)
        finally:
            ctx.leave(call)

    def osevent_occurred_timeout(self, for_libxl: object) -> None:
        call = self._enter("osevent_occurred_timeout", nested=False, even_dead=True)
        try:
            self._ctx.osevents.occurred_timeout(for_libxl)
            self._ctx.collecting.found(call)
        finally:
            self._ctx.leave(call)

    # Child processes

    def childproc_setmode(self, hooks: object | None) -> None:
        call = self._enter("childproc_setmode")
        try:
            self._ctx.children.setmode(hooks)
        finally:
            self._ctx.leave(call)

    def childproc_reaped(self, pid: int, status: int) -> bool:
        call = self._enter("childproc_reaped", even_dead=True)
        try:
            known = self._ctx.children.reaped(pid, status)
            self._ctx.collecting.found(call)
            return known
        finally:
            self._ctx.leave(call)

    def childproc_sigchld_occurred(self) -> None:
        call = self._enter("childproc_sigchld_occurred")
        try:
            self._ctx.children.sigchld_occurred()
            self._ctx.collecting.found(call)
        finally:
            self._ctx.leave(call)

    def succession(self) -> ISuccession:
        if self._claimed:
            self._refuse("succession")
        return store.Succession(self._ctx.library, LibxlEngine)

    def postfork_child_noexec(self) -> None:
        if self._claimed:
            self._refuse("postfork_child_noexec")
        self._ctx.postfork_child_noexec()

    def ctx_free(self) -> None:
        if self._claimed:
            self._refuse("ctx_free")
        self._ctx.free()

    # Operations

    def domain_pause(self, domid: int, how: AsyncHow | None = None) -> None:
        self._operate("domain_pause", domid, how)

    def domain_unpause(self, domid: int, how: AsyncHow | None = None) -> None:
        self._operate("domain_unpause", domid, how)

    def domain_shutdown(self, domid: int, how: AsyncHow | None = None) -> None:
        self._operate("domain_shutdown", domid, how)

    def domain_reboot(self, domid: int, how: AsyncHow | None = None) -> None:
        self._operate("domain_reboot", domid, how)

    def domain_destroy(self, domid: int, how: AsyncHow | None = None) -> None:
        self._operate("domain_destroy", domid, how, forks=True)

    def domain_create_new(self, config: str, how: AsyncHow | None = None, console: int | None = None) -> NewDomain:
        check_config(config)
        if console is not None:
            check_user(console, "console")
        self._check_may_build("domain_create_new", "domain_create")
        with self._operation("domain_create_new", how, forks=True) as ctx:
            return building.create(ctx, config, how, console)

    def domain_create_restore(
        self, config: str, fd: int, how: AsyncHow | None = None, console: int | None = None
    ) -> NewDomain:
        check_config(config)
        check_fd(fd)
        if console is not None:
            check_user(console, "console")
        self._check_may_build("domain_create_restore", "domain_restore")
        with self._operation("domain_create_restore", how, forks=True) as ctx:
            return building.restore(ctx, config, fd, how, console)

    def domain_suspend(self, domid: int, fd: int, live: bool = False, how: AsyncHow | None = None) -> None:
        check_domid(domid)
        check_fd(fd)
        with self._operation("domain_suspend", how, forks=True) as ctx:
            building.suspend(ctx, domid, fd, live, how)

    def cdrom_insert(
        self, domid: int, vdev: str, path: str | None, format: str = "raw", how: AsyncHow | None = None
    ) -> None:
        check_domid(domid)
        check_vdev(vdev)
        check_image(path, format)
        with self._operation("cdrom_insert", how, forks=False) as ctx:
            building.insert(ctx, domid, vdev, path, format, how)

    def _operate(self, function: str, domid: int, how: AsyncHow | None, forks: bool = False) -> None:
        check_domid(domid)
        with self._operation(function, how, forks) as ctx:
            start = getattr(ctx.lib, f"libxl_{function}")
            ctx.operations.start(f"{function}({domid})", lambda how: start(ctx.pointer, domid, how), how, forks)

    def _check_may_build(self, function: str, instead: str) -> None:
        if self._claimed:
            raise MisuseError(
                f"{function}: libxl builds the domain's memory inside this call, and this engine belongs to a Context, "
                f"whose loop would stand still: use Context.{instead}, which has it done by another process"
            )

    @contextmanager
    def _operation(self, function: str, how: AsyncHow | None, forks: bool) -> Iterator[Ctx]:
        if how is None:
            call = self._enter(f"a synchronous {function}")
        else:
            _check_how(how)
            call = self._ctx.enter(function)
        try:
            if forks:
                self._ctx.children.check_start(function, synchronous=how is None)
            yield self._ctx
        finally:
            self._ctx.notice()
            self._ctx.leave(call)

    def ao_abort(self, how: AsyncHow) -> None:
        _check_how(how)
        call = self._ctx.enter("ao_abort", even_dead=True)
        try:
            self._ctx.operations.abort(how)
        finally:
            self._ctx.notice()
            self._ctx.leave(call)

    # Beyond the header

    def domain_info(self, domid: int) -> DomainInfo:
        check_domid(domid)
        call = self._ctx.enter("domain_info")
        try:
            return info.domain_info(self._ctx.library, self._ctx.pointer, domid)
        finally:
            self._ctx.leave(call)

    def list_domain(self) -> list[DomainInfo]:
        call = self._ctx.enter("list_domain")
        try:
            return info.list_domain(self._ctx.library, self._ctx.pointer)
        finally:
            self._ctx.leave(call)

    def xenstore_connect(self) -> IStoreConnection:
        call = self._ctx.enter("xenstore_connect")
        try:
            return store.connect(self._ctx.library)
        finally:
            self._ctx.leave(call)


def _check_filter(typemask: int, predicate: Predicate | None) -> None:
    check_typemask(typemask)
    if predicate is not None and not callable(predicate):
        raise TypeError(f"predicate must be callable or None, not {predicate!r}")


def _check_how(how: object) -> None:
    if not isinstance(how, AsyncHow):
        raise TypeError(f"how must be an AsyncHow, not {how!r}")
