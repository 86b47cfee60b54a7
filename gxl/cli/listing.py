# SPDX-License-Identifier: LGPL-2.1-or-later
"""`gxl list`: the domains as they are now."""

from __future__ import annotations

import json
from typing import Any

import click

from gxl.cli.session import session
from gxl.cli.text import colourful, printable
from gxl.domains import Domain
from gxl.events import ShutdownReason

_COLOURS = {"running": "green", "blocked": "green", "paused": "cyan", "shutdown": "yellow", "dying": "red"}
_NUMBERS = (0, 3, 4)
"""The columns that are aligned to the right."""


@click.command("list", short_help="List the domains.")
@click.option("--json", "as_json", is_flag=True, help="One JSON array of objects.")
def list_domains(as_json: bool) -> None:
    """List the domains: domid, name, state, memory in MiB, seconds of processor time, UUID.

    A state is running, blocked (idle), paused, dying, or shutdown with its reason.
    """
    with session() as here:
        domains = here.ctx.list_domain()
        if as_json:
            here.out.line(json.dumps([_as_dict(domain) for domain in domains]))
            return
        rows = [("DOMID", "NAME", "STATE", "MEMORY", "CPU", "UUID"), *map(_row, domains)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        colours = colourful()
        for row, domain in zip(rows, [None, *domains], strict=True):
            cells = [
                cell.rjust(width) if column in _NUMBERS else cell.ljust(width)
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            ]
            if colours:
                cells[2] = click.style(cells[2], bold=domain is None, fg=domain and _COLOURS.get(domain.state))
            here.out.line("  ".join(cells).rstrip())


def _row(domain: Domain) -> tuple[str, ...]:
    state = domain.state if domain.shutdown_reason is None else f"{domain.state} ({_reason(domain)})"
    memory = str(domain.current_memory_kb // 1024)
    return str(domain.domid), printable(domain.name or "-"), state, memory, f"{domain.cpu_time:.1f}", str(domain.uuid)


def _as_dict(domain: Domain) -> dict[str, Any]:
    return domain._asdict() | {"uuid": str(domain.uuid), "shutdown_reason": _reason(domain)}


def _reason(domain: Domain) -> str | int | None:
    reason = domain.shutdown_reason
    return reason.name.lower() if isinstance(reason, ShutdownReason) else reason
