# SPDX-License-Identifier: LGPL-2.1-or-later
"""A domain as an application sees it: what the hypervisor knows, with the name that xenstore has for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple
from uuid import UUID

from gxl.events import ShutdownReason
from gxl.interfaces import DomainInfo, IWaiter
from gxl.sidechannel import SideChannel


class Domain(NamedTuple):
    """A snapshot of one domain."""

    domid: int
    uuid: UUID
    name: str | None
    """None where xenstore has none: domains that are being built or torn down."""
    state: str
    """"running", "blocked", "paused", "shutdown" or "dying"."""
    shutdown_reason: ShutdownReason | int | None
    current_memory_kb: int
    max_memory_kb: int
    cpu_time: float
    """Seconds."""


def with_names(infos: list[DomainInfo], side: SideChannel, make_waiter: Callable[[], IWaiter]) -> list[Domain]:
    """Ask for the names of all of them at once, and wait until the last has come."""
    names: dict[int, str | None] = {}
    waiter = make_waiter()

    def ask(domid: int) -> None:
        def arrived(name: str | None) -> None:
            names[domid] = name
            if len(names) == len(infos):
                waiter.wake()

        side.name_of(domid, arrived)

    for info in infos:
        ask(info.domid)
    if len(names) < len(infos):
        waiter.wait(None)
    return [_domain(info, names[info.domid]) for info in infos]


def _domain(info: DomainInfo, name: str | None) -> Domain:
    # A domain can be shut down and dying at once; the last is what it will stay.
    state = next((word for word in ("dying", "shutdown", "paused", "running") if getattr(info, word)), "blocked")
    return Domain(
        info.domid,
        info.uuid,
        name,
        state,
        info.shutdown_reason,
        info.current_memory_kb,
        info.max_memory_kb,
        info.cpu_time_ns / 1e9,
    )
