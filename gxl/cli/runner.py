# SPDX-License-Identifier: LGPL-2.1-or-later
"""Runs somebody's command for each event, and lets neither gxl nor another domain's events wait for it.

Threads of its own start the commands and wait for them. So whoever watches goes on at once, on whatever hub; and since
subprocess waits for its children by pid, no SIGCHLD is needed and nobody else's children are taken.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any, NamedTuple, Self

import click

from gxl.cli.signals import deaf
from gxl.cli.text import printable
from gxl.events import EventsLost

PARALLEL = 8
"""How many commands run at once, each for another domain."""
WAITING = 1000
"""How many events wait for a command at most."""
GRACE = 5.0
"""Seconds between SIGTERM and SIGKILL for the commands that run when gxl is asked to end."""


class _Job(NamedTuple):
    content: dict[str, Any]
    text: str

    @property
    def domid(self) -> int:
        domid: int = self.content["domid"]
        return domid

    def __str__(self) -> str:
        return printable(f"{self.content['type']} of domain {self.domid} ({self.content['name'] or '-'})")


class Runner:
    """One command, run with each event as a line of JSON on its standard input.

    Events of one domain are handed over one after the other, in order. Where WAITING of them wait already, the next
    are dropped; that is said, and an events_lost follows in their place. No shell is involved, and nothing that a
    guest could have chosen is an argument. At the end of its with block all that waits is done, except when that ends
    by a signal: what has not begun is dropped then, and what runs is sent SIGTERM, and SIGKILL after GRACE.
    """

    def __init__(self, command: str, say: Callable[[str], object]) -> None:
        self.failed = 0
        self._command = shlex.split(command)
        self._say = say
        self._waiting: deque[_Job] = deque()
        self._running: dict[int, subprocess.Popen[bytes] | None] = {}
        self._lost = 0
        self._over = False
        self._changed = threading.Condition()
        self._threads: list[threading.Thread] = []

    def submit(self, content: dict[str, Any], text: str) -> None:
        """Have the command run for an event, soon. Never waits."""
        with self._changed:
            # One place is kept for an events_lost.
            if len(self._waiting) >= WAITING - 1:
                if not self._lost:
                    self._say(f"{self._name} is too slow: {WAITING} events wait for it, and the next will not reach it")
                self._lost += 1
                return
            self._close_gap()
            self._waiting.append(_Job(content, text))
            if len(self._threads) < min(PARALLEL, len(self._waiting) + len(self._running)):
                self._threads.append(threading.Thread(target=self._work, name="exec", daemon=True))
                self._threads[-1].start()
            self._changed.notify()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if exc_type is None or not issubclass(exc_type, KeyboardInterrupt):
                self._finish()
        finally:
            self._stop()

    @property
    def _name(self) -> str:
        return printable(shlex.join(self._command))

    def _close_gap(self) -> None:
        if self._lost:
            event = EventsLost(0, self._lost, time=time.time())
            self._waiting.append(_Job(event.as_dict(), event.to_json()))
            self._say(f"{self._lost} events did not reach {self._name}")
            self._lost = 0

    def _finish(self) -> None:
        with self._changed:
            self._close_gap()
            if self._waiting:
                self._changed.notify_all()
            self._changed.wait_for(lambda: not self._waiting and not self._running)

    def _stop(self) -> None:
        with self._changed:
            self._over = True
            self._changed.notify_all()
            if self._waiting:
                self._say(f"{len(self._waiting)} events did not reach {self._name}")
                self._waiting.clear()
            if self._running:
                self._kill(signal.SIGTERM)
                if not self._wait_for_the_killed():
                    self._say(f"{self._name} does not end: it is killed")
                    self._kill(signal.SIGKILL)
        for thread in self._threads:
            thread.join()

    def _wait_for_the_killed(self) -> bool:
        try:
            return self._changed.wait_for(lambda: not self._running, GRACE)
        except KeyboardInterrupt:  # another signal: somebody is in a hurry
            return False

    def _kill(self, number: int) -> None:
        for process in self._running.values():
            if process is not None and process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, number)

    def _work(self) -> None:
        with deaf(), self._changed:
            while True:
                job = self._next()
                if job is not None:
                    self._running[job.domid] = None
                    self._changed.release()
                    try:
                        problem = self._run(job)
                        if problem:
                            self._say(problem)
                    finally:
                        self._changed.acquire()
                        del self._running[job.domid]
                        self._changed.notify_all()
                    self.failed += bool(problem)
                elif self._over:
                    return
                else:
                    self._changed.wait()

    def _next(self) -> _Job | None:
        for index, job in enumerate(self._waiting):
            if job.domid not in self._running:
                del self._waiting[index]
                return job
        return None

    def _run(self, job: _Job) -> str:
        """What went wrong; empty if nothing did."""
        try:
            # In a session of its own: Ctrl-C at the terminal is for gxl, which tells the command.
            # It inherits which signals are blocked, too.
            with deaf(False):
                process = subprocess.Popen(self._command, stdin=subprocess.PIPE, start_new_session=True)
        except OSError as error:
            return f"{self._name} can't be run for {job}: {error.strerror}"
        with self._changed:
            self._running[job.domid] = process
            if self._over:
                self._kill(signal.SIGTERM)
        process.communicate(job.text.encode() + b"\n")  # one that does not read it is welcome to
        status = process.returncode
        if status < 0:
            return f"{self._name} was ended by {signal.Signals(-status).name} for {job}"
        return f"{self._name} ended with status {status} for {job}" if status else ""


class _Command(click.ParamType[str]):
    name = "command"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            words = shlex.split(value)
        except ValueError as error:
            self.fail(f"{value!r} can't be split into words: {error}", param, ctx)
        if not words or shutil.which(words[0]) is None:
            self.fail(
                f"there is no program {(words or [''])[0]!r}; a shell is not involved: sh -c '…' is one", param, ctx
            )
        return str(value)


COMMAND = _Command()
"""The type of an option that takes a command line, whose program exists."""
