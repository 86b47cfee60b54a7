# SPDX-License-Identifier: LGPL-2.1-or-later
"""`gxl serve`: the domains and their events in a browser."""

from __future__ import annotations

import errno
import os
import secrets
import socket
import stat
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path

import click

from gxl.errors import GxlError

_WHY_NOT = {
    errno.EADDRINUSE: "something listens there already: choose another --port",
    errno.EACCES: "only root may listen at ports below 1024: choose another --port",
    errno.EADDRNOTAVAIL: "this machine does not have that address",
}


def _address(ctx: click.Context, option: click.Parameter, value: str) -> str:
    try:
        return str(ip_address("127.0.0.1" if value == "localhost" else value))
    except ValueError:
        raise click.BadParameter(f"an IP address of this machine is needed, not {value!r}") from None


@click.command()
@click.option("--sim", is_flag=True, help="Show a simulated host, on which domains live and die. Needs no Xen.")
@click.option("--host", default="127.0.0.1", callback=_address, metavar="ADDRESS", help="Listen there. [127.0.0.1]")
@click.option("--port", type=click.IntRange(0, 65535), default=8484, help="Listen there; 0 takes any free one. [8484]")
@click.option(
    "--name", "names", multiple=True, metavar="NAME", help="Answer for this host name, too. Several are fine."
)
@click.option(
    "--allow",
    multiple=True,
    type=click.Choice(["shutdown", "destroy", "eject"]),
    help="Let who has the token do this to domains. Several are fine; with --sim, all are allowed.",
)
@click.option(
    "--token-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The token is in this file. Without it one is made up when one is needed, and printed.",
)
@click.option("--private", is_flag=True, help="Looking needs the token, too, as behind another web server.")
@click.option("--user", metavar="USER", help="Run on as this user once Xen is open.")
def serve(
    sim: bool,
    host: str,
    port: int,
    names: Sequence[str],
    allow: Sequence[str],
    token_file: Path | None,
    private: bool,
    user: str | None,
) -> None:
    """Show domains and their events in a browser, as they happen.

    Prints the address to open, and serves until Ctrl-C or SIGTERM, which end it with status 0. If Xen is lost for good
    it ends with status 1, for a service manager to start it anew; browsers find it again by themselves.

    Looking needs no token on this machine itself. Acting on domains always does, and so does all else where others can
    reach the ADDRESS; there, put a web server that speaks TLS in front. A browser takes the token from the part of the
    printed address that it keeps to itself, or asks for it.

    In dom0, opening Xen takes root, and looking at it does not: `--user nobody` gives root up for good. Guests can then
    still be asked to shut down; destroying and ejecting need root, and can't be allowed together with --user.
    """
    try:
        from gxl.web import privileges, service
    except ModuleNotFoundError as error:
        raise click.ClickException(f"{error.name} is missing: pip install 'gxl[web]'") from error

    if sim:
        allow = ("shutdown", "destroy", "eject")
    elif user is not None and (needing := [action for action in allow if action not in privileges.WORKING]):
        raise click.UsageError(f"--allow {needing[0]} needs root, which --user {user} gives up")
    private = private or not ip_address(host).is_loopback
    token, made_up = None, False
    if token_file is not None:
        token = _read(token_file)
    elif allow or private:
        token, made_up = secrets.token_urlsafe(24), True

    def ready(port: int, engine: str) -> None:
        click.echo(f"gxl: {_url(host, port)}{f'#token={token}' if made_up else ''}")
        click.echo(f"gxl: engine: {engine}; Ctrl-C ends it", err=True)
        if os.geteuid() == 0 and not sim:
            click.echo("gxl: this runs as root, and need not: see --user", err=True)

    names = [*names, socket.gethostname()]
    try:
        problem = service.serve(
            host, port, ready=ready, simulated=sim, user=user, token=token, private=private, allow=allow, hosts=names
        )
    except GxlError as error:
        hint = "`gxl doctor` says what gxl found here, and `gxl serve --sim` needs no Xen."
        raise click.ClickException(f"{error}\n{hint}") from error
    except (PermissionError, LookupError, ValueError, RuntimeError) as error:
        raise click.ClickException(str(error)) from error
    except OSError as error:
        why = _WHY_NOT.get(error.errno or 0, error.strerror)
        raise click.ClickException(f"{_url(host, port)} can't be served: {why}") from error
    if problem:
        raise click.ClickException(problem)


def _read(token_file: Path) -> str:
    from gxl.web.guard import check_token

    try:
        with token_file.open(encoding="utf-8") as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                raise click.ClickException(f"others may use {token_file}, where the token is: chmod 600 {token_file}")
            return check_token(file.read().strip())
    except (OSError, ValueError) as error:
        raise click.ClickException(f"{token_file} holds no token: {error}") from error


def _url(host: str, port: int) -> str:
    address = ip_address(host)
    shown = socket.gethostname() if address.is_unspecified else f"[{host}]" if address.version == 6 else host
    return f"http://{shown}:{port}/"
