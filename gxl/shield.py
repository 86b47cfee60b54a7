# SPDX-License-Identifier: LGPL-2.1-or-later
"""Keeps signal handlers out of what must not be left half done.

Python runs them between any two steps of the main thread, and they may raise there: Ctrl-C does. Where that costs an
event, waiters can be told. Where it would leave an engine in a call that nobody makes, or a Context without its
connection to Xen, it has to wait.

So the main thread takes no signals meanwhile. To put other handlers in place for a while would take the signals from
libev, whose handlers Python does not know of, and be too late for asyncio, which hears of each by the wakeup fd. In a
program with other threads of its own the kernel may give them a signal instead, and Python runs its handler in the main
thread all the same: there is no way to forbid that.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # typeshed describes it as part of signal
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from threading import get_native_id
from typing import Self

from gxl import compiled, forking

# Those that tell of a fault can't wait; and SIGCHLD's handler may be an engine's, or the loop's, and raises nothing.
_FREE = {
    *(signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP, signal.SIGSYS, signal.SIGABRT),
    *(signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD),
}
_HELD = tuple(int(number) for number in signal.valid_signals() - _FREE)

# What was blocked before, while somebody holds the others: those inside have nothing to do.
_before: set[int] | None = None


def _hold() -> bool:
    global _before
    # In other threads than the main one no handler runs.
    if _before is not None or get_native_id() != forking.pid:
        return False
    before = _signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        _signal.pthread_sigmask(signal.SIG_BLOCK, _HELD)
    except BaseException:  # the handler of one that had come
        _signal.pthread_sigmask(signal.SIG_SETMASK, before)
        raise
    _before = before
    return True


def _let_go() -> None:
    global _before
    before, _before = _before, None
    if before is not None:
        _signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _held_from() -> Iterable[int] | None:
    return _before


hold: Callable[[], bool] = _hold
"""Hold signals, as a Shield does. Whether the caller has to let_go()."""
let_go: Callable[[], None] = _let_go
"""Let them come, and those that have come be handled."""
held_from: Callable[[], Iterable[int] | None] = _held_from
"""What was blocked before, while somebody holds the others."""
if compiled.part is not None:
    compiled.part.to_be_held(_HELD)
    hold, let_go, held_from = compiled.part.hold, compiled.part.let_go, compiled.part.held_from


class Shield:
    """A context manager: signals that come meanwhile are handled at the end. Costs some microseconds.

    Not to be held while greenlets switch: another one's would be in the way.
    """

    __slots__ = ("_holds",)

    def __init__(self) -> None:
        self._holds = False

    def __enter__(self) -> Self:
        self._holds = hold()
        return self

    def __exit__(self, *exc: object) -> None:
        holds, self._holds = self._holds, False
        if holds:
            let_go()

    def lifted(self) -> Lifted:
        """For what takes its time, inside the block: it can be interrupted, and by what came before, too."""
        return Lifted(self)


def unbroken(f: Callable[[], object], report: Callable[[BaseException], object]) -> Callable[[], object]:
    """`f`, for a loop to call: whatever is raised goes to `report`, also what a signal handler raises as `f` begins.

    Python runs signal handlers as a function begins, before any try or Shield in it. A generator is resumed inside its
    try. `report` must not raise.
    """

    def calls() -> Iterator[None]:
        while True:
            try:
                while True:
                    try:
                        while True:
                            yield
                            f()
                    except GeneratorExit:
                        raise
                    except BaseException as error:
                        report(error)
            except GeneratorExit:
                raise
            except BaseException as error:  # another signal's handler, as `report` began
                report(error)

    generator = calls()
    next(generator)
    return generator.__next__


def unshielded(f: Callable[[], object]) -> Callable[[], None]:
    """`f`, for a new thread, which would have signals blocked as its maker has: and whatever it runs, too."""
    before = held_from()

    def run() -> None:
        if before is not None:
            _signal.pthread_sigmask(signal.SIG_SETMASK, before)
        f()

    return run


def take_off() -> None:
    """In a forked child, which is to take signals: end what its parent holds."""
    let_go()


def _forked() -> None:
    if not forking.in_library_fork():  # an engine's own says itself when
        take_off()


os.register_at_fork(after_in_child=_forked)


class Lifted:
    """A context manager: inside it, the shield is off."""

    __slots__ = ("_shield",)

    def __init__(self, shield: Shield) -> None:
        self._shield = shield

    def __enter__(self) -> None:
        try:
            self._shield.__exit__()
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *exc: object) -> None:
        struck: BaseException | None = None
        while True:
            try:
                self._shield.__enter__()
            except BaseException as error:
                struck = error
            else:
                break
        if struck is not None:
            raise struck
