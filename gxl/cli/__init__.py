# SPDX-License-Identifier: LGPL-2.1-or-later
"""The command `gxl`. Each of its commands is a file here; a new one is a file more, and a line in the list below."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from typing import Any

import click

from gxl.cli.completion import completion
from gxl.cli.doctor import doctor
from gxl.cli.listing import list_domains
from gxl.cli.record import record
from gxl.cli.replay import replay
from gxl.cli.serve import serve
from gxl.cli.signals import Asked
from gxl.cli.sim import sim
from gxl.cli.simctl import simctl
from gxl.cli.text import printable
from gxl.cli.version import own_version
from gxl.cli.wait import wait
from gxl.cli.watch import watch


class _Commands(click.Group):
    """In the order in which they are added, and without a traceback when the disk is full, whoever writes."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        # Here, since a signal may come anywhere: also when a command has left its last try block.
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            sys.exit(128 + (error.number if isinstance(error, Asked) else signal.SIGINT))
        except click.UsageError:
            raise
        except click.ClickException as error:
            # Its words may be a guest's, a plugin's or a recording's. The lines are gxl's own.
            click.echo("Error: " + "\n".join(map(printable, error.format_message().split("\n"))), err=True)
            sys.exit(error.exit_code)

    def main(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().main(*args, **kwargs)
        except OSError as error:
            click.echo(f"Error: {error}", err=True)
            # What could not be written is still in the stream's buffer, and would be tried again at the end.
            with contextlib.suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(own_version(), prog_name="gxl")
@click.option("--engine", metavar="NAME", help="Use this engine, as $GXL_ENGINE=NAME does: libxl, embedded, …")
def main(engine: str | None) -> None:
    """Domain events of the Xen host that this runs on.

    \b
    Exit status:
      0         done
      1         it can't be done, and standard error says why
      2         the command line is wrong
      3         there is no such domain
      124       the time given by --timeout is over
      129, 130, 141, 143
                ended by SIGHUP, by Ctrl-C, since nobody reads the output
                any more, by SIGTERM
    """
    if engine is not None:
        os.environ["GXL_ENGINE"] = engine


for command in (watch, wait, list_domains, record, replay, serve, doctor, sim, simctl, completion):
    main.add_command(command)
