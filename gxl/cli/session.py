# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the commands that wait for events have in common: how they open Xen, how they wait, and how they end."""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

import click

from gxl.cli.output import Output
from gxl.cli.signals import Asked, caught, deaf
from gxl.cli.text import printable
from gxl.context import Context
from gxl.domains import Domain
from gxl.errors import GxlError
from gxl.events import Event
from gxl.interfaces import IEngine

TIMED_OUT = 124
"""As timeout(1) has it."""
NO_SUCH_DOMAIN = 3

_MAXLEN = 100_000
"""How many events may wait to be printed before some are dropped, which is said."""


class NoSuchDomain(click.ClickException):
    """There is no domain that is called so, or no single one."""

    exit_code = NO_SUCH_DOMAIN


class Session:
    """One Context, and the signals that end it.

    SIGINT and SIGTERM, and the end of whoever reads the output, end the iteration over `events`; then the program
    ends with 128 and the signal's number. No exception is thrown into gxl or into libxl's callbacks, and no line is cut
    in two. A second signal ends the program at once, wherever it is.
    """

    ctx: Context

    def __init__(self) -> None:
        self.out = Output(self._interruptible)
        self.number = 0
        """The signal that came, or 0."""
        self._nobody_reads = False
        self._rouse: Callable[[], object] | None = None

    def events(
        self,
        domids: Collection[int] | None,
        timeout: float | None = None,
        started: Callable[[], object] = lambda: None,
    ) -> Generator[Event]:
        """The events of these domains until they are all dead, or of all domains; in either case until `timeout`.

        Calls `started` as soon as it watches.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        # Nothing here waits before the first event. What a signal's exception cuts short inside an engine, that engine
        # takes for a call that goes on, and could not be freed any more: so until then the signal is only noted.
        self._rouse = lambda: None
        try:
            with self.ctx.watch(*sorted(domids or ()), timeout=timeout, maxlen=_MAXLEN) as watcher:
                # From the loop: the signal may have come while libxl calls back, or while a lock is held.
                self._rouse = lambda: self.ctx._pump.binding.call_soon(watcher.close)
                self.end_if_asked()
                started()
                for event in watcher:
                    yield event
                    if self.number or (deadline is not None and time.monotonic() >= deadline):
                        break
        finally:
            self._rouse = None
        self.end_if_asked()

    def stop(self) -> None:
        """Let `events` end, after those that are there. On the poll hub any thread may say so."""
        rouse = self._rouse
        if rouse is not None:
            rouse()

    def end_if_asked(self) -> None:
        """End the program if a signal came."""
        if self.number:
            raise Asked(self.number)

    def watch_reader(self) -> None:
        """From now on notice when nobody reads the output any more.

        As tail -f does it: without this, `gxl watch | head -1` would linger until there is another event.
        """
        if self.out.fd >= 0:
            threading.Thread(target=self._watch_reader, name="reader", daemon=True).start()

    def handle(self, number: int, frame: FrameType | None) -> None:
        """A signal came."""
        if number == signal.SIGPIPE and not self._nobody_reads:
            return  # some pipe of another kind: whoever wrote to it is told by EPIPE
        again, self.number = self.number, self.number or number
        if again or self._rouse is None:
            raise Asked(self.number)
        self._rouse()

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        rouse, self._rouse = self._rouse, None
        try:
            self.end_if_asked()
            yield
        finally:
            self._rouse = rouse

    def _watch_reader(self) -> None:
        poll = select.poll()
        poll.register(self.out.fd, 0)
        with deaf():
            ((_, found),) = poll.poll()
        if found & (select.POLLERR | select.POLLHUP):
            self._nobody_reads = True
            os.kill(os.getpid(), signal.SIGPIPE)


@contextmanager
def session(engine: IEngine | None = None, hub: str | None = None) -> Iterator[Session]:
    """A Session, whose errors become messages. It outlives a restart of xenstored, unless the engine is given."""
    opened = Session()
    try:
        with caught(opened.handle), Context(engine, hub, recover=engine is None) as opened.ctx:
            opened.watch_reader()
            yield opened
    except GxlError as error:
        raise click.ClickException(f"{error}\n`gxl doctor` says what gxl found here.") from error


def find(present: Sequence[Domain], text: str) -> list[Domain]:
    """The domains with this domid, name or UUID; at least one."""
    found = [
        domain for domain in present if text in (str(domain.domid), domain.name) or text.lower() == str(domain.uuid)
    ]
    if not found:
        names = ", ".join(f"{domain.domid} {printable(domain.name or '-')}" for domain in present)
        raise NoSuchDomain(f"no domain has the domid, name or UUID {text!r}; there are: {names or 'none'}")
    return found


@contextmanager
def problems() -> Iterator[None]:
    """What a simulated host refuses becomes a message."""
    try:
        yield
    except (OSError, ValueError, LookupError) as error:
        raise click.ClickException(str(error)) from error
