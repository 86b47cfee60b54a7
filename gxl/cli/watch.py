# SPDX-License-Identifier: LGPL-2.1-or-later
"""`gxl watch`: domain events as they happen."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

import click

from gxl.cli.durations import DURATION
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
def watch(
    domains: Sequence[str], as_json: bool, types: Sequence[str], count: int | None, timeout: float | None
) -> None:
    """Print domain events as they happen, one line each.

    A DOMAIN is a domid, a name or a UUID. Without any, all domains are watched, those that appear later too. What is
    true at the start (a domain that has shut down, or is dying) is printed at once. When all DOMAINs are gone, it ends.
    """
    shown = 0
    with session() as here:
        names = _Names(here)
        alive = {domain.domid for text in domains for domain in find(names.present, text)}
        what = f"{len(alive)} domain{'s' * (len(alive) != 1)}" if domains else "all domains"
        colours = colourful()
        events = here.events(sorted(alive) if domains else None, timeout)
        click.echo(f"gxl: watching {what} (engine: {here.ctx.engine.version})", err=True)
        for event in events:
            if isinstance(event, DomainDeath):
                alive.discard(event.domid)
            content = event.as_dict()
            if types and content["type"] not in types and not isinstance(event, _ALWAYS):
                continue
            content["name"] = names.of(event)
            here.out.line(json.dumps(content) if as_json else line(event, content["name"], colours))
            shown += 1
            if shown == count:
                return
        if alive or not domains:
            sys.exit(TIMED_OUT)


class _Names:
    """An event that follows at once when its domain is watched does not wait for xenstored to tell the name."""

    def __init__(self, here: Session) -> None:
        self.present = here.ctx.list_domain()
        self._names = {(domain.domid, domain.uuid): domain.name for domain in self.present}

    def of(self, event: Event) -> str | None:
        if event.name is not None or event.domuuid is None:
            return event.name
        return self._names.get((event.domid, event.domuuid))
