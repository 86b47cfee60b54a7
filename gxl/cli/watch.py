# SPDX-License-Identifier: LGPL-2.1-or-later
"""`gxl watch`: domain events as they happen."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import datetime
from typing import Any
from uuid import UUID

import click

from gxl.arguments import check_timeout
from gxl.cli.session import TIMED_OUT, ended_by_signals, opened
from gxl.cli.text import printable
from gxl.domains import Domain
from gxl.errors import WaitTimeout
from gxl.events import DomainDeath, Event, EventType

# What watching domains can yield. An eject can't be watched without taking it away from the toolstack that acts on it.
_WATCHABLE = (EventType.DOMAIN_SHUTDOWN, EventType.DOMAIN_DEATH)


def _seconds(ctx: click.Context, option: click.Parameter, value: float | None) -> float | None:
    try:
        return check_timeout(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


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
@click.option("--timeout", type=float, callback=_seconds, metavar="SECONDS", help="End after so long, with status 124.")
def watch(
    domains: Sequence[str], as_json: bool, types: Sequence[str], count: int | None, timeout: float | None
) -> None:
    """Print domain events as they happen, one line each.

    A DOMAIN is a domid, a name or a UUID. Without any, all domains are watched, those that appear later too. What is
    true at the start (a domain that has shut down, or is dying) is printed at once. When all DOMAINs are gone, it ends.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    shown = 0
    with ended_by_signals(), opened() as ctx, ExitStack() as evgens:
        present = ctx.list_domain()
        names: dict[tuple[int, UUID | None], str | None] = {
            (domain.domid, domain.uuid): domain.name for domain in present
        }
        if domains:
            alive = {domain.domid for domain in _find(present, domains)}
            for domid in sorted(alive):
                evgens.enter_context(ctx.evenable_domain_death(domid))
        else:
            alive = set()
            evgens.enter_context(ctx.follow_domains())
        what = f"{len(alive)} domain{'s' * (len(alive) != 1)}" if domains else "all domains"
        click.echo(f"gxl: watching {what} (engine: {ctx.engine.version})", err=True)
        while not domains or alive:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            try:
                event = ctx.event_wait(timeout=left)
            except WaitTimeout:
                sys.exit(TIMED_OUT)
            if isinstance(event, DomainDeath):
                alive.discard(event.domid)
            content = event.as_dict()
            if not types or content["type"] in types:
                # An event that follows at once on its evgen does not wait for xenstored to answer.
                content["name"] = event.name or names.get((event.domid, event.domuuid))
                click.echo(json.dumps(content) if as_json else _line(event, content))
                shown += 1
                if shown == count:
                    return


def _find(present: Sequence[Domain], wanted: Sequence[str]) -> list[Domain]:
    found = []
    for text in wanted:
        matching = [
            domain for domain in present if text in (str(domain.domid), domain.name) or text.lower() == str(domain.uuid)
        ]
        if not matching:
            names = ", ".join(f"{domain.domid} {printable(domain.name or '-')}" for domain in present)
            raise click.ClickException(f"no domain has the domid, name or UUID {text!r}; there are: {names or 'none'}")
        found += matching
    return found


def _line(event: Event, content: dict[str, Any]) -> str:
    when = datetime.fromtimestamp(event.time or 0).astimezone().isoformat(" ", "milliseconds")
    parts = [when, f"{content['type']:<15}", f"{event.domid:>5}", content["name"] or "-"]
    return printable("  ".join([*parts, *(f"{field}={content[field]}" for field in event.own)]))
