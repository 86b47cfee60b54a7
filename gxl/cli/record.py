# SPDX-License-Identifier: LGPL-2.1-or-later
"""`gxl record`: keeps what happens to domains, for a bug report or a test."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import click

from gxl import recording
from gxl.cli import progress
from gxl.cli.session import Session, session
from gxl.cli.version import own_version
from gxl.errors import GxlError
from gxl.events import Event
from gxl.interfaces import DomainInfo
from gxl.recording import RecordedDomain


@click.command(short_help="Write all that happens to a file.")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
def record(file: Path) -> None:
    """Write the events of all domains to FILE, which `gxl replay` lets happen again, until Ctrl-C.

    FILE must not exist. It is text, a line of JSON for each domain and each event; names and UUIDs of domains are in
    it. However gxl ends, there are only whole lines in it, and all that has happened before.
    """
    with session() as here, _created(file) as lines:
        _Recorder(here, lines).run()


class _Lines:
    """The file, which holds whole lines at any time."""

    def __init__(self, file: Path) -> None:
        self._file = file
        try:
            self._fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        except FileExistsError:
            raise click.ClickException(f"{file} exists, and is left alone: choose another name") from None
        except OSError as error:
            raise click.ClickException(f"{file} can't be created: {error.strerror}") from error
        self._size = 0

    def add(self, text: str) -> None:
        data = f"{text}\n".encode()
        try:
            written = 0
            while written < len(data):
                written += os.write(self._fd, data[written:])
        except OSError as error:
            os.ftruncate(self._fd, self._size)
            raise click.ClickException(f"{self._file} can't be written any more: {error.strerror}") from error
        self._size += len(data)

    def close(self) -> None:
        os.close(self._fd)


@contextmanager
def _created(file: Path) -> Iterator[_Lines]:
    lines = _Lines(file)
    try:
        yield lines
    finally:
        lines.close()


class _Recorder:
    """Writes domains as they appear (it is a Follower), and events."""

    def __init__(self, here: Session, lines: _Lines) -> None:
        self._here = here
        self._lines = lines
        self._start = time.monotonic()
        self._known: dict[tuple[int, UUID], str | None] = {}
        self._new: dict[tuple[int, UUID], float] = {}
        self._events = 0
        # Nothing is watched for this: it only wants to know which domains there are.
        self.sink: Callable[[Event], object] = lambda event: None

    def run(self) -> None:
        ctx = self._here.ctx
        start = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        self._lines.add(recording.header(own_version(), ctx.engine.version, start))
        reason = "failure"
        try:
            self.look(ctx.engine.list_domain())
            self._add_domains()
            ctx._pump.followings[self] = None
            click.echo("gxl: recording; Ctrl-C ends it", err=True)
            for event in self._here.events(None):
                self._add(event)
        except KeyboardInterrupt:
            reason = "signal"
            raise
        except GxlError as error:
            reason = str(error)
            raise
        finally:
            self._add_domains()
            self._lines.add(recording.end_line(self._at(), reason))
            progress.show("")
            click.echo(f"gxl: recorded {self._told()}", err=True)

    def look(self, domains: Iterable[DomainInfo]) -> None:
        """Domains have appeared, perhaps. Their names are asked for later: here nothing may wait."""
        for info in domains:
            life = (info.domid, info.uuid)
            if info.domid and life not in self._known:
                self._new.setdefault(life, self._at())

    def _told(self) -> str:
        return f"{self._events} events of {len(self._known)} domains"

    def _at(self) -> float:
        return time.monotonic() - self._start

    def _add(self, event: Event) -> None:
        life = None if event.domuuid is None else (event.domid, event.domuuid)
        if life is not None and life not in self._known:
            self._new.setdefault(life, self._at())
        self._add_domains(event)
        name = event.name if event.name is not None or life is None else self._known.get(life)
        self._lines.add(recording.event_line(self._at(), event, name))
        self._events += 1
        progress.show(f"gxl: recorded {self._told()}")

    def _add_domains(self, event: Event | None = None) -> None:
        if not self._new:
            return
        names: dict[tuple[int, UUID], str | None] = {}
        try:
            names = {(domain.domid, domain.uuid): domain.name for domain in self._here.ctx.list_domain()}
        except GxlError:
            pass  # Xen is gone: then they have none
        if event is not None and event.domuuid is not None and event.name is not None:
            names[event.domid, event.domuuid] = event.name
        new, self._new = self._new, {}
        for life, at in sorted(new.items(), key=lambda item: item[1]):
            self._known[life] = names.get(life)
            self._lines.add(recording.domain_line(at, RecordedDomain(*life, names.get(life))))
