# SPDX-License-Identifier: LGPL-2.1-or-later
"""Operation: one thing that libxl does over time, such as destroying a domain."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from typing import Any

from gxl.arguments import check_timeout
from gxl.building import End
from gxl.errors import Aborted, Disaster, GxlError, LibxlError, Nonspecific, NotFound, WaitTimeout, from_rc
from gxl.interfaces import AsyncHow, NewDomain
from gxl.pump import Pump
from gxl.waiting import Waiters


class Operation:
    """One asynchronous libxl operation under way: returned by a Context's operations with `wait=False`.

    Several may wait for it. It can be given to gevent.wait and gevent.iwait.
    """

    def __init__(self, pump: Pump, what: str, domain: NewDomain, on_end: Callable[[int], object]) -> None:
        self._pump = pump
        self._what = what
        self.domain = domain
        self._on_end = on_end
        self._abort: Callable[[], object] | None = None
        self._aborting = False
        self._why = ""
        self._how = AsyncHow(callback=self._called_back)
        self._waiters = Waiters(pump.binding)
        self._links: list[Callable[[Operation], object]] = []
        self._rc: int | None = None
        self._lost: GxlError | None = None

    @property
    def done(self) -> bool:
        """Whether it has ended, well or not."""
        return self._rc is not None or self._lost is not None

    @property
    def rc(self) -> int | None:
        """0 after success, a libxl error code after failure, None before the end and where the end is not known."""
        return self._rc

    @property
    def domid(self) -> int | None:
        """The domain that it is about. One that is being created has None, until that has ended well."""
        return self.domain.domid

    def wait(self, timeout: float | None = None) -> None:
        """Wait, cooperatively, for the end; raise libxl's error if it failed.

        `timeout`: seconds; None waits as long as it takes, 0 not at all. Raises WaitTimeout when they are over: the
        operation goes on. ContextClosed or Disaster: the context has ended first, and the outcome is not known.
        """
        pump = self._pump
        pump.binding.check_caller()
        timeout = check_timeout(timeout)
        pump.check_can_block("await the Operation itself")
        with pump.lock:
            if not self.done and not self._waiters.wait(timeout) and not self.done:
                raise WaitTimeout(f"{self._what} has not ended within {timeout} s")
            self._raise_failure()

    def __await__(self) -> Generator[Any, Any, None]:
        """wait(), where the loop runs coroutines."""
        self._pump.binding.check_caller()
        if not self.done:
            yield from self._waiters.awaited(None).__await__()
        self._raise_failure()

    def abort(self) -> bool:
        """Ask libxl to end it early. Whether it does, and with which code, shows at the end, often as Aborted.

        False if there was nothing to ask: it has ended, or was asked before.
        """
        self._pump.binding.check_caller()
        with self._pump.lock:
            if self.done:
                return False
            if self._abort is not None:
                asked, self._aborting = self._aborting, True
                if not asked:
                    self._abort()
                return not asked
            try:
                self._pump.engine.ao_abort(self._how)
            except (NotFound, Aborted):
                return False
            return True

    def ready(self) -> bool:
        """gevent's word for `done`."""
        return self.done

    def rawlink(self, callback: Callable[[Operation], object]) -> None:
        """Call `callback(self)` from the loop once it has ended; it must not block. What gevent.wait asks for."""
        self._links.append(callback)
        if self.done:
            self._pump.binding.call_soon(self._tell)

    def unlink(self, callback: Callable[[Operation], object]) -> None:
        """Take back rawlink."""
        if callback in self._links:
            self._links.remove(callback)

    def __repr__(self) -> str:
        state = "under way" if not self.done else "outcome unknown" if self._rc is None else f"rc {self._rc}"
        return f"<gxl.Operation {self._what}: {state}>"

    def start(self, call: Callable[[AsyncHow], object]) -> None:
        """Begin: `call` hands the AsyncHow to the engine. What it raises has kept the operation from starting."""
        with self._pump.lock:
            self._pump.operations[self] = None
            try:
                call(self._how)
            except BaseException:
                self._pump.operations.pop(self, None)
                raise

    def hand_over(self, start: Callable[[End], Callable[[], object]]) -> None:
        """Begin in another process: `start` gets what to call at the end, and returns what asks it to stop."""

        def ended(rc: int, why: str, domid: int | None) -> None:
            self.domain.domid = domid if rc == 0 else None
            self._why = why
            self._ended(rc)

        with self._pump.lock:
            self._pump.operations[self] = None
            try:
                self._abort = start(ended)
            except BaseException:
                self._pump.operations.pop(self, None)
                raise

    @property
    def apart(self) -> bool:
        """Whether another process sees to it, with a libxl of its own."""
        return self._abort is not None

    def end(self, error: GxlError) -> None:
        """The context has ended before the operation."""
        if not self.done:
            self._lost = self._unknown(error) if isinstance(error, Disaster) else error
            self._finish()

    def lose(self, disaster: Disaster, abort: bool) -> None:
        """The engine is lost before the operation has ended. With `abort` it is asked to end all the same."""
        if abort:
            with contextlib.suppress(GxlError):
                self._pump.reign.engine.ao_abort(self._how)
        if not self.done:
            self._lost = self._unknown(disaster)
            self._finish()
            self._on_end(Nonspecific.code)

    def _unknown(self, disaster: Disaster) -> Disaster:
        text = f"{self._what} was under way, and its outcome is unknown: {disaster.message}"
        return Disaster(disaster.type, text, disaster.errnoval)

    def _called_back(self, rc: int) -> None:
        # Inside libxl: only note it.
        self._pump.arrived(lambda: self._ended(rc))

    def _ended(self, rc: int) -> None:
        if not self.done:
            self._rc = rc
            self._finish()
            self._on_end(rc)

    def _finish(self) -> None:
        self._pump.operations.pop(self, None)
        self._waiters.wake()
        if self._links:
            self._pump.binding.call_soon(self._tell)

    def _tell(self) -> None:
        while self._links:
            try:
                self._links.pop(0)(self)
            except Exception as error:
                self._pump.binding.report(error)
            except BaseException:
                self._pump.binding.call_soon(self._tell)
                raise

    def _raise_failure(self) -> None:
        if self._lost is not None:
            raise type(self._lost)(*self._lost.args)
        if self._rc:
            failure: LibxlError = from_rc(self._rc, f"{self._what}: {self._why}" if self._why else self._what)
            raise failure
