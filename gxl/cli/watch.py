# SPDX-License-Identifier: LGPL-2.1-or-later
"""`gxl watch`: domain events as they happen."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from contextlib import closing, nullcontext

import click

from gxl.cli.durations import DURATION
from gxl.cli.runner import COMMAND, Runner
from gxl.cli.session import TIMED_OUT, Session, find, session
from gxl.cli.text import colourful, line
from gxl.events import DomainDeath, Event, EventsLost, EventType, Resynced

# What watching domains can yield. An eject can't be watched without taking it away from the toolstack that acts on it.
_WATCHABLE = (EventType.DOMAIN_SHUTDOWN, EventType.DOMAIN_DEATH)
# Shown whatever was asked for: they say that something may be missing.
_ALWAYS = (EventsLost, Resynced)


@click.command()
@click.argument("domains", nargs=-1, metavar="[DOMAIN]...")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@click.option(
    "--type",
    "types",
    multiple=True,
    type=click.Choice([kind.name.lower() for kind in _WATCHABLE]),
    help="Show only events of this type. May be given twice.",
)
@click.option("--count", type=click.IntRange(min=1), help="End after so many events.")
@click.option("--timeout", type=DURATION, metavar="DURATION", help="End after so long, such as 30s, with status 124.")
@click.option(
    "--exec",
    "command",
    type=COMMAND,
    metavar="COMMAND",
    help="Run COMMAND for each event, which it reads as JSON.",
)
def watch(
    domains: Sequence[str],
    as_json: bool,
    types: Sequence[str],
    count: int | None,
    timeout: float | None,
    command: str | None,
) -> None:
    """Print domain events as they happen, one line each.

    A DOMAIN is a domid, a name or a UUID. Without any, all domains are watched, those that appear later too. What is
    true at the start (a domain that has shut down, or is dying) is printed at once. When all DOMAINs are gone, it ends.

    COMMAND is a program with its arguments; no shell takes part. The event is a line of JSON on its standard input, as
    --json prints it. For the events of one domain COMMAND runs once after the other, in order; for those of different
    domains up to 8 times at once. If 1000 events wait for it, the next are dropped, and an event of type events_lost
    says how many, in their place. At the end COMMAND is waited for; when a signal ends gxl, it is sent SIGTERM. If it
    failed, which is reported each time, the status is 1 instead of 0.
    """
    runner = None if command is None else Runner(command, lambda text: click.echo(f"gxl: {text}", err=True))
    with session() as here, runner or nullcontext():
        here.out.check()
        names = _Names(here)
        colours = colourful()

        def show(event: Event) -> bool:
            content = event.as_dict()
            if types and content["type"] not in types and not isinstance(event, _ALWAYS):
                return False
            content["name"] = names.of(event)
            text = json.dumps(content)
            here.out.line(text if as_json else line(event, content["name"], colours))
            if runner is not None:
                runner.submit(content, text)
            return True

        domids = {domain.domid for text in domains for domain in find(names.present, text)} if domains else None
        ended = _follow(here, domids, count, timeout, show)
    if not ended:
        sys.exit(TIMED_OUT)
    if runner is not None and runner.failed:
        sys.exit(1)


def _follow(
    here: Session, domids: set[int] | None, count: int | None, timeout: float | None, show: Callable[[Event], bool]
) -> bool:
    """Whether it ended before its time was up."""
    shown = 0
    alive = set(domids or ())
    what = "all domains" if domids is None else f"{len(alive)} domain{'s' * (len(alive) != 1)}"
    with closing(here.events(domids, timeout)) as events:
        click.echo(f"gxl: watching {what} (engine: {here.ctx.engine.version})", err=True)
        for event in events:
            if isinstance(event, DomainDeath):
                alive.discard(event.domid)
            shown += show(event)
            if shown == count:
                return True
    return domids is not None and not alive


class _Names:
    """An event that follows at once when its domain is watched does not wait for xenstored to tell the name."""

    def __init__(self, here: Session) -> None:
        self.present = here.ctx.list_domain()
        self._names = {(domain.domid, domain.uuid): domain.name for domain in self.present}

    def of(self, event: Event) -> str | None:
        if event.name is not None or event.domuuid is None:
            return event.name
        return self._names.get((event.domid, event.domuuid))
