# SPDX-License-Identifier: LGPL-2.1-or-later
"""`gxl replay`: lets what was recorded happen again, on a simulated host, and watches it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from uuid import UUID

import click

from gxl import engines
from gxl.cli.progress import Bar
from gxl.cli.session import Session, session
from gxl.cli.signals import deaf
from gxl.cli.text import colourful, line
from gxl.events import DomainDeath, DomainShutdown, Event
from gxl.interfaces import DomainInfo
from gxl.recording import BrokenRecording, Entry, Host, Life, Player, RecordedDomain, complete, parse

_PATIENCE = 10.0
"""Seconds until an event that does not come is given up."""


def _positive(ctx: click.Context, option: click.Parameter, value: float) -> float:
    if not value > 0:  # NaN is not, either
        raise click.BadParameter(f"a number above 0 is needed, not {value}")
    return value


@click.command(short_help="Let what was recorded happen again.")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--speed",
    type=float,
    default=1.0,
    callback=_positive,
    help="So many times as fast as it happened; inf: as fast as it goes. [1]",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
def replay(file: Path, speed: float, as_json: bool) -> None:
    """Let what `gxl record` wrote to FILE happen again, and print it as `gxl watch` does.

    It happens on a simulated host of its own, through the embedded engine: the same domains appear, shut down and die,
    in the same order. Only the times and the numbers of the events are new.
    """
    try:
        with file.open("rb") as lines:
            entries = parse(lines)
    except BrokenRecording as error:
        raise click.ClickException(f"{click.format_filename(file)}: {error}") from None
    engine = engines.choose("embedded")()
    # The poll hub takes calls from other threads.
    with session(engine, "poll") as here:
        count = sum(isinstance(entry.what, (DomainShutdown, DomainDeath)) for entry in entries)
        length = entries[-1].at / speed if entries else 0.0
        click.echo(f"gxl: replaying {count} events, in {length:.1f} s", err=True)
        bar = Bar("gxl: replaying", length)
        stage = _Stage(here, engine.host, entries, speed, bar)  # type: ignore[attr-defined]  # the embedded engine's own
        colours = colourful()
        domains = [entry.what for entry in entries if isinstance(entry.what, RecordedDomain)]
        names: dict[tuple[int, UUID | None], str | None] = {(one.domid, one.uuid): one.name for one in domains}
        try:
            with bar.running(), closing(here.events(None, started=stage.start)) as events:
                for event in events:
                    # At a high speed a domain is gone before its name could be asked for.
                    name = event.name or names.get((event.domid, event.domuuid))
                    content = event.as_dict() | {"name": name}
                    with bar.hidden():
                        here.out.line(json.dumps(content) if as_json else line(event, name, colours))
                    stage.seen(event)
        finally:
            stage.end()
        if stage.problem:
            raise click.ClickException(f"{click.format_filename(file)}: {stage.problem}")
    if not complete(entries):
        click.echo("gxl: the recording has no end: it was cut off here", err=True)


_Sight = tuple[type[Event], Life]


class _Stage:
    """Plays a recording in a thread of its own, and never runs ahead of whoever watches: it is a Follower, too."""

    def __init__(self, here: Session, host: Host, entries: list[Entry], speed: float, bar: Bar) -> None:
        self.problem = ""
        self._here = here
        self._player = Player(host)
        self._entries = entries
        self._speed = speed
        self._bar = bar
        self._over = threading.Event()
        # What whoever watches has come upon: domains, and what it has told of them.
        self._known: set[Life | _Sight] = set()
        self._changed = threading.Condition()
        # Nothing is watched for this: it only wants to know which domains were found.
        self.sink: Callable[[Event], object] = lambda event: None
        self._thread = threading.Thread(target=self._play, name="replay", daemon=True)

    def start(self) -> None:
        # Those that came before look first: then whoever watches has found the domain, too.
        self._here.ctx._pump.followings[self] = None
        self._thread.start()

    def look(self, domains: Iterable[DomainInfo]) -> None:
        """Domains have appeared."""
        with self._changed:
            self._known.update((info.domid, info.uuid) for info in domains)
            self._changed.notify()

    def seen(self, event: Event) -> None:
        """This event was told."""
        if event.domuuid is None:
            return
        life = (event.domid, event.domuuid)
        with self._changed:
            if isinstance(event, DomainDeath):
                self._known.discard(life)
            self._known.add((type(event), life))
            self._changed.notify()

    def end(self) -> None:
        with self._changed:
            self._over.set()
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join()

    def _play(self) -> None:
        with deaf():
            self._play_all(time.monotonic())

    def _play_all(self, begin: float) -> None:
        try:
            for entry in self._entries:
                if self._reach(entry.at / self._speed, begin):
                    return
                # An engine reports states, not transitions: what follows must not hide what has just happened.
                life = self._player.admit(entry)
                if life is not None and isinstance(entry.what, Event):
                    self._wait_for(life)
                    # One that was told of it in a life before, by the same domid and UUID, is not the one to wait for.
                    with self._changed:
                        self._known -= {(DomainShutdown, life), (DomainDeath, life)}
                sight = self._player.play(entry)
                if sight is not None and not self._wait_for(sight):
                    self.problem = f"this event, {entry.at} s after the start, does not come: {entry.what}"
                    return
                if isinstance(entry.what, Event) and not isinstance(entry.what, (DomainShutdown, DomainDeath)):
                    with self._bar.hidden():
                        click.echo(f"gxl: not repeated: {line(entry.what, entry.what.name, False)}", err=True)
        except (OSError, ValueError) as error:
            self.problem = f"what happened {entry.at} s after the start can't be repeated: {error}"
        finally:
            self._here.stop()

    def _wait_for(self, what: Life | _Sight) -> bool:
        """Wait until whoever watches has come upon this. False if it does not."""
        with self._changed:
            return self._changed.wait_for(lambda: self._over.is_set() or what in self._known, _PATIENCE)

    def _reach(self, at: float, begin: float) -> bool:
        """Let it be `at` seconds after `begin`. Returns whether the replay is to end before."""
        while (left := begin + at - time.monotonic()) > 0:
            if self._over.wait(min(left, 1.0)):
                return True
            self._bar.move(time.monotonic() - begin)
        return self._over.is_set()
