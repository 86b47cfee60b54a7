# SPDX-License-Identifier: LGPL-2.1-or-later
"""Asynchronous operations: which are under way, and how each tells that it has ended."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from gxl.engines.libxl.calls import OPERATION, callback
from gxl.engines.libxl.loading import CData, ffi
from gxl.errors import NotFound, from_rc
from gxl.events import EventType
from gxl.interfaces import AsyncHow

if TYPE_CHECKING:
    from gxl.engines.libxl.ctx import Ctx


class Pending:
    """An operation under way. `struct` is the libxl_asyncop_how that it goes by in libxl.

    libxl knows operations that end with an event by their for_event, and can't tell two with the same one apart. So
    there it is a number of gxl's own, and the application's is put back into the event.
    """

    __slots__ = ("ctx", "ended", "forks", "handle", "how", "number", "struct")

    def __init__(self, ctx: Ctx, number: int, how: AsyncHow, forks: bool) -> None:
        self.ctx = ctx
        self.number = number
        self.how = how
        self.forks = forks
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

    def start(self, function: str, domid: int, how: AsyncHow | None, forks: bool) -> None:
        """Call libxl_`function`; synchronously if `how` is None."""
        start = getattr(self._ctx.lib, f"libxl_{function}")
        if how is None:
            self._synchronous += 1
            try:
                rc = start(self._ctx.pointer, domid, ffi.NULL)
            finally:
                self._synchronous -= 1
            if rc:
                raise from_rc(rc, f"{function}({domid})")
            return
        pending = Pending(self._ctx, next(self._numbers), how, forks)
        self._pending[pending.number] = pending
        self.forking += forks
        rc = start(self._ctx.pointer, domid, pending.struct)
        if rc:
            # Nothing was started, and nothing will be reported.
            self.forget(pending.number)
            raise from_rc(rc, f"{function}({domid})")

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

    def ended(self, number: int) -> int:
        """An event says that operation `number` has ended. Returns its for_event."""
        pending = self._pending.get(number)
        if pending is None:
            return number
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
        assert pending.how.callback is not None
        call = self._ctx.current()
        call.inside = OPERATION
        try:
            with self._ctx.no_switch():
                pending.how.callback(rc)
        finally:
            call.inside = None


@callback("void(libxl_ctx *, int, void *)")
def _callback(ctx: CData, rc: int, user: CData) -> None:
    pending: Pending = ffi.from_handle(user)
    pending.ctx.operations.finish(pending, rc)
