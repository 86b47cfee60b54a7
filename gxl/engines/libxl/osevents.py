# SPDX-License-Identifier: LGPL-2.1-or-later
"""An application's osevent hooks, and the tokens that stand for its registrations.

Where a register hook fails, only the death evgen survives being told of it; libxl's other callers then tidy up structs
that nobody has initialised, and crash. So libxl is always told that all is well, and the engine answers for the rest:
a call that enabled an evgen disables it again and raises, and elsewhere the failure is a disaster. A timeout that can't
be watched occurs at once: some of libxl's are no limits, but what it waits for before it goes on.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from gxl.engines.libxl.calls import HOOK, callback
from gxl.engines.libxl.loading import CData, ffi
from gxl.errors import MisuseError, OSEventRegFail

if TYPE_CHECKING:
    from gxl.engines.libxl.ctx import Ctx


class Token:
    """What hooks get as for_libxl. libxl's own token, the nexus, is recycled; this is not.

    `registered`: the application has taken it. `occurred`: it is a timeout, and has been reported.
    """

    __slots__ = ("ctx", "key", "nexus", "occurred", "registered", "registration", "what")

    def __init__(self, ctx: Ctx, key: int, nexus: CData, what: str) -> None:
        self.ctx = ctx
        self.key = key
        self.nexus = nexus
        self.what = what
        self.occurred = False
        self.registered = False
        self.registration: Any = None

    def __repr__(self) -> str:
        return f"<libxl's {self.what}>"


class FdToken(Token):
    __slots__ = ()


class TimeoutToken(Token):
    __slots__ = ()


class OSEvents:
    """A ctx's hooks and tokens. `hooks` is the application's IOSEventHooks, or None."""

    def __init__(self, ctx: Ctx) -> None:
        self._ctx = ctx
        self._tokens: dict[int, Token] = {}
        self._keys = itertools.count(1)
        self.hooks: Any = None

    def register(self, hooks: Any) -> None:
        """Take an IOSEventHooks, for good."""
        for name in ("fd_register", "fd_modify", "fd_deregister", "timeout_register", "timeout_modify"):
            if not callable(getattr(hooks, name, None)):
                raise TypeError(f"hooks must provide IOSEventHooks, and {hooks!r} has no {name}")
        self.hooks = hooks
        self._ctx.lib.libxl_osevent_register_hooks(self._ctx.pointer, _HOOKS, self._ctx.handle)

    def occurred_fd(self, for_libxl: object, fd: int, events: int, revents: int) -> None:
        """libxl_osevent_occurred_fd. libxl ignores what is stale by now."""
        ctx = self._ctx
        token = for_libxl if isinstance(for_libxl, FdToken) and for_libxl.ctx is ctx else self._own(for_libxl, FdToken)
        if ctx.operations.forking:
            ctx.children.check_pump()
        try:
            ctx.lib.libxl_osevent_occurred_fd(ctx.pointer, token.nexus, fd, events, revents)
        except OverflowError as error:
            raise ValueError(f"fd, events and revents must be C's, not {fd}, {events}, {revents}") from error

    def occurred_timeout(self, for_libxl: object) -> None:
        """libxl_osevent_occurred_timeout. A second time, it would make libxl's list of free nexi circular."""
        token = self._own(for_libxl, TimeoutToken)
        self._ctx.children.check_pump()
        if token.occurred:
            raise MisuseError(f"{token!r} has occurred already: report each once, however often timeout_modify came")
        token.occurred = True
        self._tokens.pop(token.key)
        self._ctx.lib.libxl_osevent_occurred_timeout(self._ctx.pointer, token.nexus)

    def _own(self, for_libxl: object, kind: type[Token]) -> Token:
        if not isinstance(for_libxl, kind):
            raise TypeError(f"for_libxl must be what the register hook was given, not {for_libxl!r}")
        if for_libxl.ctx is not self._ctx:
            raise MisuseError(f"{for_libxl!r} belongs to another engine")
        return for_libxl

    def fd_register(self, fd: int, out: CData, events: int, nexus: CData) -> None:
        token = self._new(FdToken, out, nexus, f"fd {fd}")
        token.registered = self._run("fd_register", token, fd, events, token)

    def fd_modify(self, fd: int, update: CData, events: int) -> None:
        token = self._token(update[0])
        if token.registered:
            self._run("fd_modify", token, fd, token.registration, events)

    def fd_deregister(self, fd: int, registration: CData) -> None:
        token = self._token(registration)
        del self._tokens[token.key]
        if token.registered:
            call = self._ctx.current()
            call.inside = HOOK
            try:
                with self._ctx.no_switch():
                    self.hooks.fd_deregister(fd, token.registration)
            finally:
                call.inside = None

    def timeout_register(self, out: CData, abs: float, nexus: CData) -> None:
        token = self._new(TimeoutToken, out, nexus, f"timeout at {abs:.6f}")
        token.registered = self._run("timeout_register", token, abs, token)
        if not token.registered:
            self._ctx.current().untimed.append(token)

    def let_occur(self, untimed: list[Token]) -> None:
        """Report the timeouts that nobody watches; for the end of a call, whose callbacks may be called still."""
        while untimed:
            self.occurred_timeout(untimed.pop(0))

    def timeout_modify(self, update: CData) -> None:
        token = self._token(update[0])
        if token.registered and not self._run("timeout_modify", token, token.registration, 0.0):
            # Nothing is lost: libxl has no more interest, and the timeout occurs when it would have.
            call = self._ctx.current()
            call.raised.append(call.failed.pop()[1])

    def _new(self, kind: type[Token], out: CData, nexus: CData, what: str) -> Token:
        key = next(self._keys)
        token = self._tokens[key] = kind(self._ctx, key, nexus, what)
        # What libxl has there is a former registration's, the header's NULL notwithstanding.
        out[0] = ffi.cast("void *", key)
        return token

    def _token(self, registration: CData) -> Token:
        return self._tokens[int(ffi.cast("uintptr_t", registration))]

    def _run(self, hook: str, token: Token, *arguments: object) -> bool:
        """Run a hook that returns a registration. False: it failed."""
        function: Callable[..., object] = getattr(self.hooks, hook)
        call = self._ctx.current()
        call.inside = HOOK
        try:
            with self._ctx.no_switch():
                token.registration = function(*arguments)
        except BaseException as error:
            rc = error.rc if isinstance(error, OSEventRegFail) else OSEventRegFail.code
            failure = OSEventRegFail(rc, f"{hook} failed for {token!r}: {error!r}")
            failure.__cause__ = error
            call.failed.append((hook, failure))
            if not isinstance(error, Exception):
                call.raised.append(error)
            return False
        finally:
            call.inside = None
        return True


@callback("int(*)(void *, int, void **, short, void *)", error=0)
def _fd_register(user: CData, fd: int, out: CData, events: int, for_libxl: CData) -> int:
    ffi.from_handle(user).osevents.fd_register(fd, out, events, for_libxl)
    return 0


@callback("int(*)(void *, int, void **, short)", error=0)
def _fd_modify(user: CData, fd: int, update: CData, events: int) -> int:
    ffi.from_handle(user).osevents.fd_modify(fd, update, events)
    return 0


@callback("void(*)(void *, int, void *)")
def _fd_deregister(user: CData, fd: int, registration: CData) -> None:
    ffi.from_handle(user).osevents.fd_deregister(fd, registration)


@callback("int(*)(void *, void **, struct timeval, void *)", error=0)
def _timeout_register(user: CData, out: CData, abs: CData, for_libxl: CData) -> int:
    ffi.from_handle(user).osevents.timeout_register(out, abs.tv_sec + abs.tv_usec / 1e6, for_libxl)
    return 0


@callback("int(*)(void *, void **, struct timeval)", error=0)
def _timeout_modify(user: CData, update: CData, abs: CData) -> int:
    ffi.from_handle(user).osevents.timeout_modify(update)
    return 0


_HOOKS = ffi.new("libxl_osevent_hooks *")
_HOOKS.fd_register = _fd_register
_HOOKS.fd_modify = _fd_modify
_HOOKS.fd_deregister = _fd_deregister
_HOOKS.timeout_register = _timeout_register
_HOOKS.timeout_modify = _timeout_modify
