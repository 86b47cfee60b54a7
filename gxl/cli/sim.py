# SPDX-License-Identifier: LGPL-2.1-or-later
"""The commands of the simulated host: `gxl sim` serves one to real clients, `gxl simctl` acts on it."""

from __future__ import annotations

import errno
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import click

from gxl.arguments import devid
from gxl.cli.text import printable
from gxl.events import ShutdownReason, shutdown_reason
from gxl.simhost import DomainInfo
from gxl.simhost.launch import launch
from gxl.simhost.remote import RemoteHost


# What follows the command's name is the command's, `--` or not.
@click.command(context_settings={"allow_interspersed_args": False})
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
    with _problems(), launch() as (host, variables):
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


@click.group()
def simctl() -> None:
    """Act on the simulated host of this shell, one that `gxl sim` serves.

    A DOMAIN is a domid or a name.
    """


@simctl.command()
@click.argument("name")
@click.option("--paused", is_flag=True, help="Leave it paused, as `xl create -p` does.")
@click.option("--cdrom", metavar="VDEV", help="Give it a CD drive, such as hdc.")
def create(name: str, paused: bool, cdrom: str | None) -> None:
    """Create a domain, and print its domid."""
    if cdrom is not None:
        with _problems():
            devid(cdrom)
    with _host() as host:
        if any(_name(host, info.domid) == name for info in host.domains()):
            raise click.ClickException(f"there is a domain that is called {printable(name)!r}")
        domid = host.create_domain(name, paused=paused)
        if cdrom is not None:
            host.add_disk(domid, cdrom)
        click.echo(domid)


@simctl.command()
@click.argument("domain")
@click.argument("reason", default="poweroff")
def shutdown(domain: str, reason: str) -> None:
    """Let the guest shut down: with poweroff, reboot, suspend, crash, watchdog, soft_reset, or a number up to 255."""
    with _host() as host:
        host.shutdown_domain(_domid(host, domain), _reason(reason))


@simctl.command()
@click.argument("domain")
def destroy(domain: str) -> None:
    """Destroy a domain."""
    with _host() as host:
        host.destroy_domain(_domid(host, domain))


@simctl.command()
@click.argument("domain")
@click.argument("vdev")
def eject(domain: str, vdev: str) -> None:
    """Let the guest eject the medium of its disk VDEV."""
    with _host() as host:
        host.eject_disk(_domid(host, domain), vdev)


@simctl.command()
@click.argument("domain")
def pause(domain: str) -> None:
    """Pause a domain."""
    with _host() as host:
        host.pause_domain(_domid(host, domain))


@simctl.command()
@click.argument("domain")
def unpause(domain: str) -> None:
    """Let a paused domain run."""
    with _host() as host:
        host.unpause_domain(_domid(host, domain))


@simctl.command()
@click.argument("domain")
def resume(domain: str) -> None:
    """Take back a domain's shutdown, as after a suspend that stayed here."""
    with _host() as host:
        host.resume_domain(_domid(host, domain))


@simctl.command()
@click.argument("call")
@click.argument("error", metavar="ERRNO")
def fail(call: str, error: str) -> None:
    """Let the next CALL of any program fail with ERRNO, such as EIO.

    A CALL is a hypercall (getdomaininfolist, pausedomain, …), a request to xenstored (WATCH, READ, …) or connect; a
    request that fails with EPIPE breaks its connection.
    """
    number = getattr(errno, error, None)
    if not isinstance(number, int):
        raise click.ClickException(f"an errno has a name such as EIO, not {error!r}")
    with _host() as host:
        host.fail_next(call, number)


@simctl.command("list")
def list_domains() -> None:
    """List the domains: domid, name, state."""
    with _host() as host:
        for info in host.domains():
            click.echo(f"{info.domid:>5}  {printable(_name(host, info.domid) or '-'):<24}  {_state(info)}")


def _run(command: Sequence[str], environment: dict[str, str]) -> int:
    # Ctrl-C goes to the whole foreground group: what it means is the command's to decide, and the host ends after it.
    # A handler, unlike SIG_IGN, is not inherited by what is executed.
    signal.signal(signal.SIGINT, lambda number, frame: None)
    try:
        process = subprocess.Popen(command, env=environment)
    except OSError as error:
        click.echo(f"Error: {command[0]!r} can't be run: {error.strerror}", err=True)
        # As env(1) and shells have it.
        return 127 if isinstance(error, FileNotFoundError) else 126
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, frame: process.send_signal(number))
    status = process.wait()
    return status if status >= 0 else 128 - status


@contextmanager
def _problems() -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, LookupError) as error:
        raise click.ClickException(str(error)) from error


@contextmanager
def _host() -> Iterator[RemoteHost]:
    directory = os.environ.get("XENSTORED_RUNDIR")
    if directory is None:
        raise click.ClickException("this shell sees no simulated host: start it with `gxl sim -- bash`")
    with _problems():
        try:
            host = RemoteHost(directory)
        except (FileNotFoundError, ConnectionRefusedError):
            raise click.ClickException(f"no simulated host is in {directory} any more: it has ended") from None
        with host:
            yield host


def _domid(host: RemoteHost, text: str) -> int:
    if text.isascii() and text.isdigit():
        return int(text)
    found = [info.domid for info in host.domains() if _name(host, info.domid) == text]
    if len(found) != 1:
        raise LookupError(f"{len(found) or 'no'} domains are called {text!r}")
    return found[0]


def _name(host: RemoteHost, domid: int) -> str | None:
    try:
        return host.read(f"/local/domain/{domid}/name").decode("utf-8", "backslashreplace")
    except FileNotFoundError:
        return None


def _reason(text: str) -> int:
    if text.isascii() and text.isdigit():
        return int(text)
    try:
        return ShutdownReason[text.upper()]
    except KeyError:
        names = ", ".join(reason.name.lower() for reason in ShutdownReason)
        raise ValueError(f"a reason is one of {names}, or a number from 0 to 255, not {text!r}") from None


def _state(info: DomainInfo) -> str:
    if info.dying:
        return "dying"
    if info.shutdown:
        reason = shutdown_reason(info.shutdown_reason or 0)
        return f"shutdown ({reason.name.lower() if isinstance(reason, ShutdownReason) else reason})"
    return "paused" if info.paused else "running"
