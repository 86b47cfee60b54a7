# SPDX-License-Identifier: LGPL-2.1-or-later
"""A domain as an application sees it: what the hypervisor knows, with the name that xenstore has for it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

from gxl.errors import GxlError
from gxl.events import ShutdownReason
from gxl.interfaces import DomainInfo, IWaiter

if TYPE_CHECKING:
    from gxl.pump import Pump


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


class _Names:
    """Names, as xenstore tells them. It has to know (Asker) that the rest will not come."""

    def __init__(self, waiter: IWaiter, count: int) -> None:
        self.names: dict[int, str | None] = {}
        self.error: GxlError | None = None
        self._waiter = waiter
        self._count = count

    @property
    def complete(self) -> bool:
        return len(self.names) == self._count

    def arrived(self, domid: int, name: str | None) -> None:
        self.names[domid] = name
        if self.complete:
            self._waiter.wake()

    def end(self, error: GxlError) -> None:
        self.error = error
        self._waiter.wake()


def with_names(infos: list[DomainInfo], pump: Pump) -> list[Domain]:
    """Ask for the names of all of them at once, and wait until the last has come."""
    waiter = pump.binding.waiter()
    asked = _Names(waiter, len(infos))
    pump.askers[asked] = None
    try:
        for info in infos:
            pump.side.name_of(info.domid, partial(asked.arrived, info.domid))
        if not asked.complete:
            waiter.wait(None)
    finally:
        pump.askers.pop(asked, None)
    if not asked.complete and asked.error is not None:
        raise asked.error
    return [_domain(info, asked.names[info.domid]) for info in infos]


def by_uuid(infos: list[DomainInfo], wanted: str | UUID) -> int | None:
    """The domid of the domain whose UUID is `wanted`, if there is one."""
    return next((info.domid for info in infos if str(info.uuid) == str(wanted).lower()), None)


def find(domains: list[Domain], wanted: str | UUID) -> Domain:
    """The one whose name or UUID is `wanted`. LookupError: none, or several of that name."""
    if isinstance(wanted, str):
        try:
            uuid = UUID(wanted)
        except ValueError:
            uuid = None
        found = [domain for domain in domains if domain.name == wanted or domain.uuid == uuid]
    else:
        found = [domain for domain in domains if domain.uuid == wanted]
    if len(found) == 1:
        return found[0]
    if found:
        raise LookupError(f"several domains are called {wanted!r}: {', '.join(str(domain.domid) for domain in found)}")
    names = ", ".join(repr(domain.name) for domain in domains if domain.name is not None)
    raise LookupError(f"no domain has the name or UUID {str(wanted)!r}; there are {names or 'none with a name'}")


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
