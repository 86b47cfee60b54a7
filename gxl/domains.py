# SPDX-License-Identifier: LGPL-2.1-or-later
"""Domains as an application sees them, and which of them it means by a name.

What the hypervisor knows of a domain comes by hypercall, at once; its name is in xenstore alone, and has to be waited
for. Meanwhile the domain may die and its domid go to another: a name counts only for the life that it was read for.
Whoever may write to xenstore may choose any name, so two domains can share one, and a name can look like a UUID.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

from gxl.arguments import check_domain
from gxl.errors import GxlError, MisuseError, WaitTimeout
from gxl.events import ShutdownReason
from gxl.interfaces import DomainInfo
from gxl.waiting import Waiters

if TYPE_CHECKING:
    from gxl.pump import Pump

Designation = int | str | UUID
"""What means a domain: its domid, its name, or its UUID, as text, too."""

_SHOWN = 20
"""How many of the domains that there are an error tells of."""
_LONGEST = 60
"""How much of a name it shows."""


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


class Ambiguous(LookupError):
    """Several domains are meant."""


class Listing:
    """All domains, and their names, which are asked for at once and come when xenstored answers.

    `then` is called from the loop when there is a result(). It has to know (Asker) that the rest will not come.
    """

    def __init__(self, pump: Pump, then: Callable[[], object] | None = None) -> None:
        self._pump = pump
        self._then = then
        self._names: dict[int, str | None] = {}
        self._error: GxlError | None = None
        self._waiters = Waiters(pump.binding)
        self._infos: list[DomainInfo] = pump.engine.list_domain()
        pump.askers[self] = None
        for info in self._infos:
            pump.side.name_of(info.domid, partial(self._arrived, info.domid))
        if not self._infos:
            self._done()

    def wait(self, timeout: float | None) -> list[Domain]:
        """The domains, with the names; WaitTimeout when they did not come within `timeout` seconds."""
        try:
            if not self._complete and not self._waiters.wait(timeout) and not self._complete:
                raise WaitTimeout(f"xenstored has not told the domains' names within {timeout} s")
        finally:
            self._pump.askers.pop(self, None)
        return self.result()

    async def awaited(self) -> list[Domain]:
        """wait(), as something to await."""
        try:
            if not self._complete:
                await self._waiters.awaited(None)
        finally:
            self._pump.askers.pop(self, None)
        return self.result()

    def result(self) -> list[Domain]:
        """The domains, with the names: once both are there."""
        if self._error is not None and not self._complete:
            raise self._error
        if self._pump.dead is not None:
            raise self._pump.dead.again()
        domains = [_domain(info, self._names[info.domid]) for info in self._infos]
        alive = {(info.domid, info.uuid) for info in self._pump.engine.list_domain()}
        names = {(domain.domid, domain.uuid): domain.name for domain in domains if domain.name is not None}
        self._pump.feeds.names.learn({life: name for life, name in names.items() if life in alive})
        return domains

    def end(self, error: GxlError) -> None:
        """The connection by which they were asked for is lost."""
        self._error = error
        self._done()

    @property
    def _complete(self) -> bool:
        return len(self._names) == len(self._infos)

    def _arrived(self, domid: int, name: str | None) -> None:
        self._names[domid] = name
        if self._complete:
            self._done()

    def _done(self) -> None:
        self._pump.askers.pop(self, None)
        self._waiters.wake()
        if self._then is not None:
            then, self._then = self._then, None
            self._pump.binding.call_soon(then)


def locate(pump: Pump, designation: Designation, timeout: float | None = None) -> int:
    """The domid of the domain that is meant now. Looking up a name waits, for `timeout` seconds at most.

    LookupError: there is none, or several. Until the caller switches, the domid is that domain's.
    """
    known = resolve(pump, designation)
    if isinstance(known, int):
        return known
    pump.check_can_block(f"`await ctx.adomid_of({known!r})`, and pass the domid")
    with pump.lock:
        return find(pump, known, Listing(pump).wait(timeout))


def locate_if_possible(
    pump: Pump, designations: Sequence[Designation], timeout: float | None = None
) -> list[int | str]:
    """The domids; where nothing may block, of those that are given by a name, the name."""
    known = [resolve(pump, designation) for designation in designations]
    if all(isinstance(domain, int) for domain in known):
        return known
    try:
        pump.check_can_block("look the name up first")
    except MisuseError:
        return known
    with pump.lock:
        present = Listing(pump).wait(timeout)
        return [find(pump, domain, present) if isinstance(domain, str) else domain for domain in known]


async def located(pump: Pump, designation: Designation) -> int:
    """locate(), as something to await."""
    known = resolve(pump, designation)
    return known if isinstance(known, int) else find(pump, known, await Listing(pump).awaited())


def resolve(pump: Pump, designation: Designation) -> int | str:
    """The domid, if it can be told without waiting; else the name that xenstored must be asked about.

    A domid is an int and is taken as it is; text of digits is a name like any other. Text that is the UUID of a domain
    means that domain, whatever others are called.
    """
    designation = check_domain(designation)
    if isinstance(designation, UUID):
        return _by_uuid(pump.engine.list_domain(), designation, designation)
    if isinstance(designation, int):
        return designation
    uuid = as_uuid(designation)
    if uuid is not None:
        infos = pump.engine.list_domain()
        if any(info.uuid == uuid for info in infos):
            return _by_uuid(infos, uuid, designation)
    return designation


def as_uuid(text: str) -> UUID | None:
    """The UUID that `text` is, in its usual form."""
    try:
        uuid = UUID(text)
    except ValueError:
        return None
    return uuid if str(uuid) == text.lower() else None


def find(pump: Pump, name: str, domains: Sequence[Domain]) -> int:
    """The domid of the one that is called `name`."""
    found = [domain for domain in domains if domain.name == name]
    if len(found) > 1:
        raise _ambiguous(name, "called so", (domain.domid for domain in found))
    if not found:
        advice = f"; a domid is given as an int: {name}" if re.fullmatch("[0-9]{1,10}", name) else ""
        present = [f"{domain.domid} {_short(domain.name)}" for domain in domains if domain.name is not None]
        raise _unknown(f"no domain is called {_short(name)}", present, advice)
    alive = pump.engine.list_domain()
    if not any((info.domid, info.uuid) == found[0][:2] for info in alive):
        present = [f"{info.domid} {info.uuid}" for info in alive]
        raise _unknown(f"domain {found[0].domid}, which was called {_short(name)}, is gone", present, "")
    return found[0].domid


def _by_uuid(infos: Iterable[DomainInfo], uuid: UUID, designation: Designation) -> int:
    found = [info.domid for info in infos if info.uuid == uuid]
    if len(found) > 1:  # as while a domain migrates within one host
        raise _ambiguous(designation, "of this UUID", found)
    if not found:
        raise _unknown(f"no domain has the UUID {uuid}", [f"{info.domid} {info.uuid}" for info in infos], "")
    return found[0]


def _ambiguous(designation: Designation, what: str, domids: Iterable[int]) -> Ambiguous:
    which = ", ".join(map(str, domids))
    return Ambiguous(f"{_short(str(designation))} means no single domain; {what} are {which}: pass a domid")


def _short(name: str) -> str:
    # A name may have 4096 characters, and any: repr keeps those that move a terminal's cursor from doing so.
    return repr(name) if len(name) <= _LONGEST else f"{name[:_LONGEST]!r}…"


def _unknown(what: str, present: Sequence[str], advice: str) -> LookupError:
    shown = ", ".join(present[:_SHOWN]) or "none"
    more = f" and {len(present) - _SHOWN} more" if len(present) > _SHOWN else ""
    return LookupError(f"{what}; there are {shown}{more}{advice}")


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
