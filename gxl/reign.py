# SPDX-License-Identifier: LGPL-2.1-or-later
"""One engine's life within a Context: from being taken over to being freed, or abandoned.

A Context keeps its place in the loop for as long as it lives; its engine may have to be replaced. So what belongs to
one engine is here, apart from what belongs to the Context: the hooks that it was given, what it has registered by
them, the children that it forked, and what it reports. What comes for an engine that is gone, is known by that.
"""

from __future__ import annotations

import select
from collections.abc import Callable
from functools import partial
from typing import Protocol

from zope.interface import implementer

from gxl.arrivals import Arrival, Arrivals, Collect
from gxl.errors import Disaster, MisuseError
from gxl.events import EVENTMASK_ALL, Event
from gxl.interfaces import IChildProcHooks, ICollectedEngine, IEngine, IEventHooks, IHubBinding, IOSEventHooks
from gxl.unpatched import unpatched

# For the loop's own callbacks, where gevent's poll refuses to run: it would switch.
_select = unpatched("select")


class Source(Protocol):
    """What stands for a registration at the loop: a token of gxl's own, whatever the engine's is."""

    def fd_ready(self, fd: int, events: int, revents: int) -> None:
        """The fd is ready."""

    def timeout_due(self) -> None:
        """The timeout is due."""


class _Registration:
    """An fd or a timeout of an engine's: the token at the loop, and what the engine knows it by."""

    __slots__ = ("_reign", "_token", "at_loop")

    def __init__(self, reign: Reign, token: object) -> None:
        self._reign = reign
        self._token = token
        self.at_loop: object = None

    def fd_ready(self, fd: int, events: int, revents: int) -> None:
        reign = self._reign
        if not reign.over:  # a dead engine may be told, too
            reign.engine.osevent_occurred_fd(self._token, fd, events, revents)

    def timeout_due(self) -> None:
        if self._reign.served:
            self._reign.engine.osevent_occurred_timeout(self._token)


class _Hangup:
    """A Source: the engine's connection to xenstored, as far as its end shows."""

    def __init__(self, fd: int, hooks: IOSEventHooks, on_hangup: Callable[[], object]) -> None:
        self._hooks = hooks
        self._fd = fd
        self._on_hangup = on_hangup
        # POLLHUP comes unasked, and POLLPRI never on such a socket. What there is to read is libxenstore's to read.
        self._registration: object = hooks.fd_register(fd, select.POLLPRI, self)

    def fd_ready(self, fd: int, events: int, revents: int) -> None:
        self.forget()
        self._on_hangup()

    def timeout_due(self) -> None:
        """Never called: there is no timeout."""

    def forget(self) -> None:
        """Watch it no more. Idempotent."""
        registration, self._registration = self._registration, None
        if registration is not None:
            self._hooks.fd_deregister(self._fd, registration)


@implementer(IOSEventHooks)
class _Hooks:
    """The loop's hooks, as one engine uses them. What it leaves behind is known, since it may leave it for ever."""

    def __init__(self, reign: Reign, hooks: IOSEventHooks) -> None:
        self._reign = reign
        self._hooks = hooks
        self._fds: dict[_Registration, int] = {}

    def fd_register(self, fd: int, events: int, for_libxl: object) -> _Registration:
        registration = _Registration(self._reign, for_libxl)
        registration.at_loop = self._hooks.fd_register(fd, events, registration)
        self._fds[registration] = fd
        return registration

    def fd_modify(self, fd: int, registration: object, events: int) -> _Registration:
        assert isinstance(registration, _Registration)
        if registration in self._fds:
            registration.at_loop = self._hooks.fd_modify(fd, registration.at_loop, events)
        return registration

    def fd_deregister(self, fd: int, registration: object) -> None:
        assert isinstance(registration, _Registration)
        if self._fds.pop(registration, None) is not None:
            self._hooks.fd_deregister(fd, registration.at_loop)

    def timeout_register(self, abs: float, for_libxl: object) -> _Registration:
        registration = _Registration(self._reign, for_libxl)
        registration.at_loop = self._hooks.timeout_register(abs, registration)
        return registration

    def timeout_modify(self, registration: object, abs: float) -> _Registration:
        assert isinstance(registration, _Registration)
        registration.at_loop = self._hooks.timeout_modify(registration.at_loop, abs)
        return registration

    def timeout_deregister(self, registration: object) -> None:
        assert isinstance(registration, _Registration)
        self._hooks.timeout_deregister(registration.at_loop)

    def forget_fds(self) -> None:
        """Watch none of its fds any more. Its timeouts may still occur, once, and are not passed on."""
        fds, self._fds = self._fds, {}
        for registration, fd in fds.items():
            self._hooks.fd_deregister(fd, registration.at_loop)


@implementer(IChildProcHooks)
class _Nursery:
    """The loop's child watching, as one engine uses it: whose child a pid is, shows by who forked it."""

    def __init__(self, reign: Reign, hooks: IChildProcHooks) -> None:
        self._reign = reign
        self._fork: Callable[[], int] | None = hooks.fork_replacement
        self.chldowner = hooks.chldowner
        self.reaped_callback = hooks.reaped_callback
        self.fork_replacement = None if self._fork is None else self._forked

    def _forked(self) -> int:
        assert self._fork is not None
        pid = self._fork()
        if pid:
            self._reign.children.add(pid)
        return pid


@implementer(IEventHooks)
class _Collector:
    """What the engine calls: it appends, and sees to it that somebody drains.

    With `pushed` its events come this way; otherwise they stay in the engine until they are collected.
    """

    def __init__(
        self, arrived: Callable[[Arrival], None], disaster: Callable[[Disaster], object], pushed: bool
    ) -> None:
        self.event_occurs_mask = EVENTMASK_ALL if pushed else 0
        self.event_occurs: Callable[[Event], None] = arrived
        self._arrived = arrived
        self._disaster = disaster

    def disaster(self, type: int, msg: str, errnoval: int) -> None:
        self._arrived(partial(self._disaster, Disaster(type, msg, errnoval)))


# A ctx that was not freed goes on using the hooks it was given; they must never be collected.
_abandoned: list[Reign] = []


class Reign:
    """Takes `engine` over, at `binding`. `arrivals` gets what it reports; `on_disaster(self, disaster)` comes that way.

    `hooks` are the loop's, or what there is instead; `later` runs what may block; `on_hangup(self)` is called if the
    engine's connection to xenstored ends without its noticing. Raises what the engine raises, and has freed it then,
    unless it could not be taken over at all.
    """

    def __init__(
        self,
        engine: IEngine,
        binding: IHubBinding,
        hooks: IOSEventHooks,
        arrivals: Arrivals,
        on_disaster: Callable[[Reign, Disaster], object],
        on_hangup: Callable[[Reign], object],
        later: Callable[[Callable[[], object]], object],
    ) -> None:
        self.offered = engine
        """What an application may have: it refuses what only the Context may do."""
        self.engine: IEngine = engine.claim(binding.no_switch, later)
        self.children: set[int] = set()
        self.freed = False
        self.over = False
        """Whether nothing more will be done with the engine: it was freed, or abandoned."""
        self.retired = False
        """Whether it is lost, and served only until it can be freed."""
        self.pending = ""
        self._hooks = None if binding.osevent is None else _Hooks(self, hooks)
        self._hangup: _Hangup | None = None
        self._arrivals = arrivals
        self._collect: Collect | None = None
        try:
            if self._hooks is not None:
                self.engine.osevent_register_hooks(self._hooks)
            if binding.childproc is not None:
                self.engine.childproc_setmode(_Nursery(self, binding.childproc))
            collected = ICollectedEngine(self.engine, None)
            self.engine.event_register_callbacks(
                _Collector(arrivals.add, partial(on_disaster, self), pushed=collected is None)
            )
            if collected is not None:
                self._collect = arrivals.collect_from(collected)
            if self.engine.hangup_fd is not None:
                self._hangup = _Hangup(self.engine.hangup_fd, hooks, partial(on_hangup, self))
        except BaseException:
            self.engine.ctx_free()
            raise

    @property
    def served(self) -> bool:
        """Whether the engine is to hear of its fds, timeouts and children."""
        return not self.over and (self.retired or self.engine.dead is None)

    @property
    def hung_up(self) -> bool:
        """Whether the engine's connection to xenstored is known to have ended, at this moment."""
        fd = None if self.over else self.engine.hangup_fd
        if fd is None:
            return False
        poll = _select.poll()
        poll.register(fd, 0)  # POLLHUP comes unasked
        return bool(poll.poll(0))

    def free(self) -> bool:
        """Free the engine. False while it has operations or children: `pending` says more."""
        if not self.freed:
            self._forget_hangup()
            if self._collect is not None:
                self._arrivals.gather(self._collect)
            try:
                self.engine.ctx_free()
            except MisuseError as error:
                self.pending = str(error)
                return False
            self.freed = self.over = True
            self._forget_fds()
            self._ask_no_more()
        return True

    def abandon(self) -> None:
        """Leave the engine as it is, and touch it no more: what it holds stays held until the process ends."""
        self.over = True
        self._forget_fds()
        self._ask_no_more()
        _abandoned.append(self)

    def child_reaped(self, pid: int, status: int) -> bool:
        """A child has ended. False: it is not one of this engine's."""
        if pid not in self.children:
            return False
        self.children.discard(pid)
        if self.served:
            self.engine.childproc_reaped(pid, status)
        return True

    def _ask_no_more(self) -> None:
        if self._collect is not None:
            self._arrivals.sources.remove(self._collect)
            self._collect = None

    def _forget_hangup(self) -> None:
        if self._hangup is not None:
            self._hangup.forget()

    def _forget_fds(self) -> None:
        self._forget_hangup()
        if self._hooks is not None:
            self._hooks.forget_fds()
