# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which signals end gxl, and which thread they are for."""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE)


class Asked(KeyboardInterrupt):
    """A signal asks the program to end. A SystemExit would be taken for a plug-in's own while one is being loaded."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


Handler = Callable[[int, FrameType | None], object] | int | signal.Handlers | None


@contextmanager
def deaf(yes: bool = True) -> Iterator[None]:
    """Inside, this thread does not take the signals that end gxl; or takes them after all.

    Python runs handlers in the main thread, and learns of a signal there only if that is the thread that the kernel
    interrupts: it is usually, but may be any that does not block the signal.
    """
    if threading.get_native_id() == os.getpid():  # a greenlet, in a process that gevent has patched
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK if yes else signal.SIG_UNBLOCK, ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def caught(handler: Handler) -> Iterator[None]:
    """Inside, the signals that end gxl are for `handler`, wherever the main thread waits.

    Python only notes a signal, and looks at its notes between two instructions. One that comes after the last look and
    before poll(2) or a lock has put the thread to sleep, or that another thread takes, interrupts nothing: it would
    be handled at the next event. So a thread learns of it from the wakeup fd, and interrupts the main thread until that
    has looked.
    """
    nudge = _Nudge()
    before = {number: _catch(number, handler) for number in ENDING}
    before[signal.SIGURG] = signal.signal(signal.SIGURG, nudge.arrived)
    nudge.start()
    try:
        yield
    finally:
        try:
            nudge.stop()
        finally:
            for number, handler_before in before.items():
                signal.signal(number, handler_before)


class _Nudge:
    """Interrupts the main thread by SIGURG, which otherwise nobody is told of, after each signal that ends gxl."""

    def __init__(self) -> None:
        self._arrived = False
        self._noted, self._notes = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._thread = threading.Thread(target=self._run, name="signals", daemon=True)

    def arrived(self, number: int, frame: FrameType | None) -> None:
        """The main thread looks at its signals: in the order of their numbers, so at the others before."""
        self._arrived = True

    def start(self) -> None:
        self._thread.start()
        self._before = signal.set_wakeup_fd(self._notes, warn_on_full_buffer=False)

    def stop(self) -> None:
        signal.set_wakeup_fd(self._before)
        self._arrived = True
        os.close(self._notes)
        self._thread.join()
        os.close(self._noted)

    def _run(self) -> None:
        poll = select.poll()
        poll.register(self._noted, select.POLLIN)
        with deaf():
            while True:
                poll.poll()
                numbers = os.read(self._noted, 4096)
                if not numbers:
                    return
                if any(number in ENDING for number in numbers):
                    self._interrupt()

    def _interrupt(self) -> None:
        self._arrived = False
        pause = 0.01
        while not self._arrived:
            os.kill(os.getpid(), signal.SIGURG)
            time.sleep(pause)
            pause = min(2 * pause, 0.5)


def _catch(number: int, handler: Handler) -> Handler:
    before = signal.getsignal(number)
    # Whom nohup(1) or a shell's & has made deaf stays so; SIGPIPE is ignored by Python itself.
    if before is not signal.SIG_IGN or number == signal.SIGPIPE:
        signal.signal(number, handler)
    return before
