# SPDX-License-Identifier: LGPL-2.1-or-later
"""The command `gxl`: `gxl watch` shows domain events as they happen, `gxl doctor` what gxl stands on.

Exit statuses: 0, done; 1, it can't be done, and standard error says why; 2, the command line is wrong; 124, the time
given by --timeout is over; 130 and 143, ended by SIGINT or SIGTERM.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from importlib import metadata
from types import FrameType
from typing import Any, NoReturn
from uuid import UUID

import click

from gxl import engines, hubhooks
from gxl.arguments import check_timeout
from gxl.cli.sim import sim, simctl
from gxl.cli.text import printable
from gxl.context import Context
from gxl.domains import Domain
from gxl.errors import GxlError, WaitTimeout
from gxl.events import DomainDeath, Event, EventType

TIMED_OUT = 124
"""As timeout(1) has it."""

# What watching domains can yield. An eject can't be watched without taking it away from the toolstack that acts on it.
_WATCHABLE = (EventType.DOMAIN_SHUTDOWN, EventType.DOMAIN_DEATH)


def _own_version() -> str:
    try:
        return metadata.version("gxl")
    except metadata.PackageNotFoundError:
        return "from a checkout"


def _seconds(ctx: click.Context, option: click.Parameter, value: float | None) -> float | None:
    try:
        return check_timeout(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(_own_version(), prog_name="gxl")
def main() -> None:
    """Domain events of the Xen host that this runs on."""


main.add_command(sim)
main.add_command(simctl)


@main.command()
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
    with _ended_by_signals(), _open() as ctx, ExitStack() as evgens:
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


@contextmanager
def _open() -> Iterator[Context]:
    """A Context, whose errors become messages."""
    try:
        with Context() as ctx:
            yield ctx
    except GxlError as error:
        raise click.ClickException(f"{error}\n`gxl doctor` says what gxl found here.") from error
    except OSError as error:
        if error.errno == errno.EPIPE:  # whoever read has gone: click ends without a word
            raise
        raise click.ClickException(f"the events can't be written: {error.strerror}") from error


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """SIGINT and SIGTERM end the block as sys.exit does: what was opened is closed, and nothing is printed."""

    def end(number: int, frame: FrameType | None) -> NoReturn:
        sys.exit(128 + number)

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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


@main.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def doctor(as_json: bool) -> None:
    """Say what a program that uses gxl gets here, and why not something else.

    The status is 0 if such a program would work, and 1 if it would not.
    """
    report = _diagnosis()
    click.echo(json.dumps(report) if as_json else "\n".join(_in_words(report)))
    sys.exit(0 if report["works"] else 1)


def _diagnosis() -> dict[str, Any]:
    named = os.environ.get("GXL_ENGINE")
    reason = "$GXL_ENGINE names it" if named else "$GXL_ENGINE is not set, and it is the default"
    report: dict[str, Any] = {
        "gxl": _own_version(),
        "python": platform.python_version(),
        "system": platform.platform(),
        "engines": [_engine(name, reason if name == (named or "libxl") else "") for name in sorted(engines.known())],
        "hubs": [_hub(found) for found in hubhooks.survey()],
    }
    try:
        Context().close()
        report["problem"] = ""
    except GxlError as error:
        report["problem"] = str(error)
    report["works"] = not report["problem"]
    return report


def _engine(name: str, chosen: str) -> dict[str, str]:
    version = problem = ""
    try:
        engine = engines.choose(name)()
        version = engine.version
        engine.ctx_free()
    except GxlError as error:
        problem = str(error)
    return {"name": name, "chosen": chosen, "version": version, "problem": problem}


def _hub(found: hubhooks.Found) -> dict[str, str]:
    return {
        "name": found.name,
        "chosen": found.chosen,
        "description": found.description,
        "version": found.version,
        "problem": found.problem,
    }


def _in_words(report: dict[str, Any]) -> Iterator[str]:
    yield f"gxl {report['gxl']}, Python {report['python']}, {report['system']}"
    for kind in ("engine", "hub"):
        for part in report[f"{kind}s"]:
            if part["chosen"]:
                yield f"{kind} {part['name']} is in force: {part['chosen']}"
            else:
                yield f"{kind} {part['name']} is not in force: set GXL_{kind.upper()}={part['name']} to use it"
            for said in (part.get("description"), part["version"]):
                if said:
                    yield f"    {said}"
            yield from (f"    {line}" for line in part["problem"].splitlines())
    if report["works"]:
        yield "a Context can be opened"
    elif any(part["problem"] == report["problem"] for part in report["engines"] + report["hubs"]):
        yield "no Context can be opened, as said above"
    else:
        yield f"no Context can be opened: {report['problem']}"
