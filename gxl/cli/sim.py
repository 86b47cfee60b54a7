# SPDX-License-Identifier: LGPL-2.1-or-later
"""`gxl sim`: serves a simulated host to real clients."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from types import FrameType

import click

from gxl.cli.session import problems
from gxl.simhost.launch import launch


# What follows the command's name is the command's, `--` or not.
@click.command(short_help="Run a command on a simulated host.", context_settings={"allow_interspersed_args": False})
@click.option("--domains", type=click.IntRange(min=0), default=0, metavar="N", help="Begin with N running domains.")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def sim(domains: int, command: Sequence[str]) -> None:
    """Serve a simulated Xen host to real clients: libxenlight, libxenstore and the tools that use them.

    `gxl sim -- COMMAND …` runs COMMAND in an environment in which it sees that host, hypercalls included, and ends with
    its exit status (127: there is no such command; 126: it can't be run): try `gxl sim --domains 2 -- xl list`, or
    `gxl sim -- bash`. Without a COMMAND the environment is printed, for other shells to use, and the host lasts until
    it is interrupted.

    Needs a C compiler, once, for the small library that is preloaded into the command.
    """
    with problems(), launch() as (host, variables):
        for number in range(1, domains + 1):
            host.create_domain(f"sim{number}")
        if command:
            sys.exit(_run(command, os.environ | variables))
        # Blocked before anybody can know that the host is there, so that ending it always cleans up.
        awaited = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
        signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
        for name, value in variables.items():
            click.echo(f"export {name}={shlex.quote(value)}")
        click.echo("gxl: the host lasts until Ctrl-C; evaluate the lines above in another shell", err=True)
        signal.sigwait(awaited)


def _run(command: Sequence[str], environment: dict[str, str]) -> int:
    # Ctrl-C goes to the whole foreground group: what it means is the command's to decide, and the host ends after it.
    # A handler, unlike SIG_IGN, is not inherited by what is executed.
    signal.signal(signal.SIGINT, lambda number, frame: None)
    processes: list[subprocess.Popen[bytes]] = []
    early: list[int] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        if processes:
            processes[0].send_signal(number)
        else:
            early.append(number)

    # Before the command starts: it may be seen to run before Popen returns.
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup(1) has it, for the command too
            signal.signal(number, pass_on)
    try:
        process = subprocess.Popen(command, env=environment)
    except OSError as error:
        click.echo(f"Error: {command[0]!r} can't be run: {error.strerror}", err=True)
        # As env(1) and shells have it.
        return 127 if isinstance(error, FileNotFoundError) else 126
    processes.append(process)
    for noted in early:
        process.send_signal(noted)
    status = process.wait()
    return status if status >= 0 else 128 - status
