# SPDX-License-Identifier: LGPL-2.1-or-later
"""`gxl simctl`: acts on a simulated host that `gxl sim` serves."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

import click

from gxl.arguments import devid
from gxl.cli.session import problems
from gxl.cli.text import printable
from gxl.events import ShutdownReason, shutdown_reason
from gxl.simhost import DomainInfo
from gxl.simhost.remote import RemoteHost


@click.group(short_help="Act on the host of `gxl sim`.")
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
        with problems():
            devid(cdrom)
    with _host() as host:
        if any(_name(host, info.domid) == name for info in host.domains()):
            raise click.ClickException(f"there is a domain that is called {printable(name)!r}")
        domid = host.create_domain(name, paused=paused)
        if cdrom is not None:
            host.add_disk(domid, cdrom)
        click.echo(domid)


@simctl.command(short_help="Let the guest shut down.")
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


@simctl.command(short_help="Take back a domain's shutdown.")
@click.argument("domain")
def resume(domain: str) -> None:
    """Take back a domain's shutdown, as after a suspend that stayed here."""
    with _host() as host:
        host.resume_domain(_domid(host, domain))


@simctl.command(short_help="Let the next such call of any program fail.")
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


@contextmanager
def _host() -> Iterator[RemoteHost]:
    directory = os.environ.get("XENSTORED_RUNDIR")
    if directory is None:
        raise click.ClickException("this shell sees no simulated host: start it with `gxl sim -- bash`")
    with problems():
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
    if not found:
        raise LookupError(f"no domain is called {text!r}")
    if len(found) > 1:
        raise LookupError(f"{len(found)} domains are called {text!r}: give a domid")
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
