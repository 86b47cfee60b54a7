# SPDX-License-Identifier: LGPL-2.1-or-later
"""Text for terminals."""

from __future__ import annotations

import os
import sys
from datetime import datetime

import click

from gxl.events import DomainDeath, DomainShutdown, Event, EventsLost, Resynced, ShutdownReason

_HARMLESS = (ShutdownReason.POWEROFF, ShutdownReason.REBOOT, ShutdownReason.SUSPEND, ShutdownReason.SOFT_RESET)


def printable(text: str) -> str:
    """`text` without what would drive a terminal: whoever names a domain must not."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii") for letter in text
    )


def colourful() -> bool:
    """Whether standard output is a terminal that shows colours, and nobody has asked for none (no-color.org)."""
    terminal = sys.stdout is not None and sys.stdout.isatty()
    return terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def line(event: Event, name: str | None, colours: bool) -> str:
    """One line for people: when, what, which domain, and what else the event says."""
    when = _when(event.time or 0.0)
    kind = f"{event.as_dict()['type']:<15}"
    if isinstance(event, (EventsLost, Resynced)):
        told = f"{when}  {kind}  {_aside(event)}"
        return click.style(told, fg="red", bold=True) if colours else told
    content = event.as_dict()
    named = printable(name or "-")
    own = "  ".join(printable(f"{field}={content[field]}") for field in event.own)
    if colours:
        when = click.style(when, dim=True)
        kind = click.style(kind, fg=_colour(event))
        named = click.style(named, bold=True)
    return "  ".join([when, kind, f"{event.domid:>5}", named, own]).rstrip()


def _when(seconds: float) -> str:
    try:
        return datetime.fromtimestamp(seconds).astimezone().isoformat(" ", "milliseconds")
    except (ValueError, OverflowError, OSError):
        return f"{seconds} s after 1970"  # a recording may claim what no calendar has


def _colour(event: Event) -> str:
    if isinstance(event, DomainShutdown):
        return "yellow" if event.shutdown_reason in _HARMLESS else "red"
    return "magenta" if isinstance(event, DomainDeath) else "cyan"


def _aside(event: EventsLost | Resynced) -> str:
    if isinstance(event, EventsLost) and event.domid:
        return f"domain {event.domid} ejects a disk so often that it is not listened to any more"
    if isinstance(event, EventsLost):
        events = f"{event.count} event{'s' * (event.count != 1)}"
        return f"{events} came faster than they could be taken, or could not be delivered, and are missing here"
    return printable(f"cut off from Xen, and back ({event.reason}): what happened meanwhile follows")
