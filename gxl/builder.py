# SPDX-License-Identifier: LGPL-2.1-or-later
"""The process that creates or restores one domain for a Context, and ends. gxl.building starts it.

libxl builds a domain's memory inside the call that starts this: seconds for a large guest, in which no loop could run.
Here nothing else has to. The process has a libxl ctx of its own, and finds three fds: the request, a socket to the
Context, and for restoring the stream. It says in lines of JSON what it has to say: that it is alive, what libxl logs,
that the console is there, and the end, or why it can't go on. At most one line comes back, "abort", and end of file
says the same.
"""

from __future__ import annotations

import json
import logging
import os
import select
import socket
import sys
import threading
import time
from typing import Any

from gxl import engines
from gxl.errors import Aborted, GxlError, LibxlError, NotFound
from gxl.events import DomainCreateConsoleAvailable, Event, mask
from gxl.interfaces import AsyncHow, IEngine

REQUEST_FD, CHANNEL_FD, STREAM_FD = 3, 4, 5
BEAT_SECONDS = 1.0


class _Channel(logging.Handler):
    """The way to the Context, for this process's log as well."""

    def __init__(self, fd: int) -> None:
        super().__init__()
        self.socket = socket.socket(fileno=fd)
        self.socket.set_inheritable(False)
        self._sending = threading.Lock()

    def say(self, **message: object) -> None:
        try:
            with self._sending:
                self.socket.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            # Nobody listens any more; the loop notices that by itself.
            return

    def hung_up(self) -> bool:
        """Whether the Context is gone: libxl may have been busy ever since, and the loop not have run."""
        poll = select.poll()
        poll.register(self.socket, 0)  # POLLHUP comes unasked
        return bool(poll.poll(0))

    def emit(self, record: logging.LogRecord) -> None:
        self.say(log=record.levelno, logger=record.name, text=record.getMessage())


class _Hooks:
    """IEventHooks."""

    event_occurs_mask = mask(DomainCreateConsoleAvailable)
    disaster = None

    def __init__(self, channel: _Channel) -> None:
        self._channel = channel

    def event_occurs(self, event: Event) -> None:
        self._channel.say(console=event.domid)


class _Builder:
    """One request, from start to end."""

    def __init__(self, request: dict[str, Any], channel: _Channel) -> None:
        self._request = request
        self._channel = channel
        self._how = AsyncHow(callback=self._ended)
        self._rc: int | None = None
        self._asleep = False
        self._deserted = False

    def run(self) -> None:
        threading.Thread(target=self._beat, args=(threading.get_ident(),), daemon=True).start()
        engine = engines.provide(self._request["engine"])
        engine.event_register_callbacks(_Hooks(self._channel))
        config, console = self._request["config"], self._request["console"]
        try:
            if self._request["restore"]:
                new = engine.domain_create_restore(config, STREAM_FD, self._how, console)
            else:
                new = engine.domain_create_new(config, self._how, console)
        except LibxlError as error:
            self._channel.say(end=error.rc, why=str(error))
            return
        while self._rc is None:
            self._turn(engine)
        if new.domid is not None and self._channel.hung_up():
            # Nobody would ever know of it.
            engine.domain_destroy(new.domid)
        self._channel.say(end=self._rc, domid=new.domid)
        engine.ctx_free()

    def _turn(self, engine: IEngine) -> None:
        fds, timeout_ms = engine.osevent_beforepoll()
        poll = select.poll()
        for fd, events in fds:
            poll.register(fd, events)
        if not self._deserted:
            poll.register(CHANNEL_FD, select.POLLIN)
        self._asleep = True
        ready = dict(poll.poll(timeout_ms))
        self._asleep = False
        if ready.pop(CHANNEL_FD, 0):
            self._deserted = not self._channel.socket.recv(64)
            try:
                engine.ao_abort(self._how)
            except (NotFound, Aborted):
                pass
        engine.osevent_afterpoll([(fd, events, ready.get(fd, 0)) for fd, events in fds])

    def _ended(self, rc: int) -> None:
        self._rc = rc

    def _beat(self, builder: int) -> None:
        # A call into libxl may last for minutes, and burns time while it does. One that does not is stuck.
        clock = time.pthread_getcpuclockid(builder)
        before = -1.0
        while True:
            time.sleep(BEAT_SECONDS)
            now = time.clock_gettime(clock)
            if self._asleep or now != before:
                self._channel.say(alive=True)
            before = now


def main() -> None:
    """What the process runs."""
    # Python closes its own fds at exec. C libraries in the Context's process may have left theirs open.
    os.closerange(STREAM_FD + 1, os.sysconf("SC_OPEN_MAX"))
    with open(REQUEST_FD, "rb") as file:
        request = json.load(file)
    if request["restore"]:
        os.set_inheritable(STREAM_FD, False)
    else:
        os.closerange(STREAM_FD, STREAM_FD + 1)
    channel = _Channel(CHANNEL_FD)
    logger = logging.getLogger("gxl")
    logger.setLevel(request["level"])
    logger.propagate = False
    logger.addHandler(channel)
    try:
        _Builder(request, channel).run()
    except GxlError as error:
        channel.say(failed=str(error))
    except BaseException as error:
        channel.say(failed=f"{type(error).__name__}: {error}")
        raise
    # Not by way of Python's finalisation, which a thread of libxl's might outlast.
    sys.stderr.flush()
    os._exit(0)
