# SPDX-License-Identifier: LGPL-2.1-or-later
"""`gxl wait`: for scripts that go on when a domain has shut down, or is gone."""

from __future__ import annotations

import json
import sys
from contextlib import closing

import click

from gxl.cli.durations import DURATION
from gxl.cli.session import TIMED_OUT, NoSuchDomain, find, session
from gxl.cli.text import colourful, line, printable
from gxl.events import DomainDeath, DomainShutdown

_ENDS: dict[str, tuple[type[DomainShutdown | DomainDeath], ...]] = {
    # A domain that is destroyed while it runs never shuts down: to wait on would be to wait for ever.
    "shutdown": (DomainShutdown, DomainDeath),
    "death": (DomainDeath,),
}


@click.command(short_help="Wait until a domain has shut down, or is gone.")
@click.argument("domain")
@click.option(
    "--for",
    "awaited",
    type=click.Choice(list(_ENDS)),
    default="shutdown",
    show_default=True,
    help="Until it has shut down (or is gone, if it did not shut down before); or until it is gone.",
)
@click.option("--timeout", type=DURATION, metavar="DURATION", help="For no longer than this, such as 5m or 1h30m.")
@click.option("--json", "as_json", is_flag=True, help="Print the event as JSON.")
def wait(domain: str, awaited: str, timeout: float | None, as_json: bool) -> None:
    """Wait until DOMAIN, a domid, a name or a UUID, has shut down or is gone, and print the event that says so.

    What is so already ends it at once.

    \b
    Exit status:
      0    it has happened
      124  it has not happened within --timeout
      3    there is no such domain; perhaps it is gone already
      1    failure: the domain could not be watched, or not to the end
    """
    with session() as here:
        here.out.check()
        present = here.ctx.list_domain()
        found = find(present, domain)
        if len(found) > 1:
            domids = ", ".join(str(one.domid) for one in found)
            raise NoSuchDomain(f"several domains are called {domain!r}: {domids}; give a UUID")
        name = found[0].name
        called = f"{printable(name or '-')} (domain {found[0].domid})"
        with closing(here.events([found[0].domid], timeout)) as events:
            click.echo(f"gxl: waiting for the {awaited} of {called}", err=True)
            for event in events:
                if isinstance(event, _ENDS[awaited]):
                    content = event.as_dict() | {"name": event.name or name}
                    here.out.line(json.dumps(content) if as_json else line(event, content["name"], colourful()))
                    return
        sys.exit(TIMED_OUT)
