# SPDX-License-Identifier: LGPL-2.1-or-later
"""Asynchronous operations: which are under way, and how each tells that it has ended."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from gxl.engines.libxl.calls import OPERATION, callback
from gxl.engines.libxl.loading import CData, ffi
from gxl.errors import NotFound, from_rc
from gxl.events import EventType
from gxl.interfaces import AsyncHow

if TYPE_CHECKING:
    from gxl.engines.libxl.ctx import Ctx


class Loan(Protocol):
    """What libxl uses until an operation has ended."""

    def end(self, rc: int) -> None:
        """It has ended so."""


class Pending:
    """An operation under way. `struct` is the libxl_asyncop_how that it goes by in libxl.

    libxl knows operations that end with an event by their for_event, and can't tell two with the same one apart. So
    there it is a number of gxl's own, and the application's is put back into the event.
    """

    __slots__ = ("ctx", "ended", "forks", "handle", "how", "loan", "number", "struct")

    def __init__(self, ctx: Ctx, number: int, how: AsyncHow, forks: bool, loan: Loan | None) -> None:
        self.ctx = ctx
        self.number = number
        self.how = how
        self.forks = forks
        self.loan = loan
        self.ended = False
        self.handle: CData = ffi.new_handle(self)
        self.struct: CData = ffi.new("libxl_asyncop_how *")
        if how.callback is None:
            self.struct.u.for_event = number
        else:
            self.struct.callback = _callback
            self.struct.u.for_callback = self.handle


class Operations:
    """A ctx's operations, by number. `forking` counts those that have or may get a child."""

    def __init__(self, ctx: Ctx) -> None:
        self._ctx = ctx
        self._pending: dict[int, Pending] = {}
        self._numbers = itertools.count(1)
        self._synchronous = 0
        self.forking = 0

    def start(
        self, what: str, call: Callable[[CData], int], how: AsyncHow | None, forks: bool, loan: Loan | None = None
    ) -> None:
        """Make the call that starts `what`, given a libxl_asyncop_how; synchronously if `how` is None."""
        if how is None:
            self._synchronous += 1
            self.forking += forks
            try:
                rc = call(ffi.NULL)
            finally:
                self._synchronous -= 1
                self.forking -= forks
            if loan is not None:
                loan.end(rc)
            if rc:
                raise from_rc(rc, what)
            return
        pending = Pending(self._ctx, next(self._numbers), how, forks, loan)
        self._pending[pending.number] = pending
        self.forking += forks
        rc = call(pending.struct)
        if rc:
            # Nothing was started, and nothing will be reported.
            self.forget(pending.number)
            if loan is not None:
                loan.end(rc)
            raise from_rc(rc, what)

    def abort(self, how: AsyncHow) -> None:
        """libxl_ao_abort for the latest operation that was started with `how`."""
        for pending in reversed(self._pending.values()):
            if pending.how is how and not pending.ended:
                rc = self._ctx.lib.libxl_ao_abort(self._ctx.pointer, pending.struct)
                break
        else:
            rc = NotFound.code
        if rc:
            raise from_rc(rc, "ao_abort")

    def in_progress(self) -> int:
        """How many have not ended. One has ended, too, if its event is still in libxl's queue."""
        if any(pending.how.callback is None for pending in self._pending.values()):
            call = self._ctx.current()
            self._ctx.events.queued(call, 1 << EventType.OPERATION_COMPLETE)
        return self._synchronous + sum(not pending.ended for pending in self._pending.values())

    def ended(self, number: int, rc: int) -> int:
        """An event says that operation `number` has ended. Returns its for_event."""
        pending = self._pending.get(number)
        if pending is None:
            return number
        if not pending.ended and pending.loan is not None:
            pending.loan.end(rc)
        pending.ended = True
        return pending.how.for_event

    def forget(self, number: int) -> None:
        """Operation `number` has reported its end."""
        pending = self._pending.pop(number, None)
        if pending is not None:
            self.forking -= pending.forks

    def finish(self, pending: Pending, rc: int) -> None:
        """libxl calls back: an operation has ended."""
        self.forget(pending.number)
        if pending.loan is not None:
            pending.loan.end(rc)
        assert pending.how.callback is not None
        call = self._ctx.current()
        call.inside = OPERATION
        try:
            with self._ctx.no_switch():
                pending.how.callback(rc)
        finally:
            call.inside = None


@callback("void(*)(libxl_ctx *, int, void *)")
def _callback(ctx: CData, rc: int, user: CData) -> None:
    pending: Pending = ffi.from_handle(user)
    pending.ctx.operations.finish(pending, rc)
