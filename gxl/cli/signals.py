# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which signals end gxl, and which thread they are for."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE)


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
