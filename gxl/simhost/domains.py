# SPDX-License-Identifier: LGPL-2.1-or-later
"""The domains of the simulated host, as the hypervisor keeps them: no names, no store."""

from __future__ import annotations

import builtins
import errno
import os
import time
from bisect import bisect_left, insort
from collections.abc import Callable
from enum import Enum
from itertools import islice
from typing import NamedTuple
from uuid import UUID, uuid4

# Ids from here on have special meanings; domains get smaller ones.
DOMID_FIRST_RESERVED = 0x7FF0


class Kind(Enum):
    """How a domain is virtualised."""

    PV = "pv"
    PVH = "pvh"
    HVM = "hvm"


class DomainInfo(NamedTuple):
    """One domain as a hypercall shows it, at one moment."""

    domid: int
    uuid: UUID
    kind: Kind
    running: bool
    blocked: bool
    paused: bool
    shutdown: bool
    dying: bool
    shutdown_reason: int
    """What the guest said when it shut down, 0 to 255; 0 (poweroff) while it did not."""
    memory_kb: int
    cpu_time_ns: int
    vcpus: int


class Domain:
    """One domain; only Domains changes it."""

    def __init__(self, domid: int, uuid: UUID, kind: Kind, memory_kb: int, vcpus: int) -> None:
        self.domid = domid
        self.uuid = uuid
        self.kind = kind
        self.memory_kb = memory_kb
        self.vcpus = vcpus
        self.paused = False
        self.dying = False
        self.shutdown_reason: int | None = None
        self._cpu_time_ns = 0
        self._runs_since: int | None = None

    @property
    def runs(self) -> bool:
        """Whether the guest can do anything now."""
        return not self.paused and not self.dying and self.shutdown_reason is None

    def clock(self) -> None:
        """To be called after each change of state: counts the time in which the domain ran."""
        now = time.monotonic_ns()
        if self._runs_since is not None:
            self._cpu_time_ns += now - self._runs_since
        self._runs_since = now if self.runs else None

    def info(self) -> DomainInfo:
        ran = 0 if self._runs_since is None else time.monotonic_ns() - self._runs_since
        return DomainInfo(
            domid=self.domid,
            uuid=self.uuid,
            kind=self.kind,
            running=self.runs,
            blocked=False,
            paused=self.paused,
            shutdown=self.shutdown_reason is not None,
            dying=self.dying,
            shutdown_reason=self.shutdown_reason or 0,
            memory_kb=self.memory_kb,
            cpu_time_ns=self._cpu_time_ns + ran,
            vcpus=self.vcpus,
        )


class Domains:
    """All domains, by id, dom0 included; and which of them changed lately.

    Like the hypervisor's exception interrupt, `on_exception(domid)` tells xenstored that a domain shut down, began to
    die or vanished.
    """

    def __init__(self, on_exception: Callable[[int], None]) -> None:
        self._on_exception = on_exception
        self._domains: dict[int, Domain] = {}
        # Their ids in ascending order: a tool lists thousands of domains in many small pieces.
        self._order: builtins.list[int] = []
        self._last_domid = 0
        self._serial = 0
        # Per domid the serial of its last change, the latest change last.
        self._changes: dict[int, int] = {}
        self.create(0, UUID(int=0), Kind.PV, memory_kb=1024 * 1024, vcpus=2)

    def create(self, domid: int | None, uuid: UUID | None, kind: Kind, memory_kb: int, vcpus: int) -> Domain:
        """A new domain. OSError(EEXIST): the id is taken; ENOMEM: all are."""
        if domid is None:
            domid = self._next_domid()
        elif domid in self._domains:
            raise OSError(errno.EEXIST, f"{os.strerror(errno.EEXIST)}: domain {domid}")
        domain = self._domains[domid] = Domain(domid, uuid or uuid4(), kind, memory_kb, vcpus)
        insort(self._order, domid)
        self._changed(domain)
        return domain

    def _next_domid(self) -> int:
        # Xen starts after the last id that it chose itself, so that an id is reused as late as possible.
        for step in range(DOMID_FIRST_RESERVED - 1):
            domid = (self._last_domid + step) % (DOMID_FIRST_RESERVED - 1) + 1
            if domid not in self._domains:
                self._last_domid = domid
                return domid
        raise OSError(errno.ENOMEM, "every domid is in use")

    def get(self, domid: int) -> Domain:
        """OSError(ESRCH): there is no such domain. TypeError: `domid` is equal to an int, perhaps, but is none."""
        if type(domid) is not int:
            raise TypeError(f"domid must be an int, not {domid!r}")
        domain = self._domains.get(domid)
        if domain is None:
            raise OSError(errno.ESRCH, f"no domain {domid}")
        return domain

    def find(self, domid: int) -> Domain | None:
        return self._domains.get(domid)

    def guest(self, domid: int) -> Domain:
        """A domain other than dom0, which nobody here pauses, shuts down or destroys: OSError(EINVAL)."""
        domain = self.get(domid)
        if not domid:
            raise OSError(errno.EINVAL, "domain 0 is the one that this is run from")
        return domain

    def list(self, first: int = 0, limit: int | None = None) -> list[DomainInfo]:
        """Every domain from id `first` on, in ascending order, but at most `limit` of them."""
        start = bisect_left(self._order, first)
        domids = self._order[start:] if limit is None else self._order[start : start + limit]
        return [self._domains[domid].info() for domid in domids]

    def pause(self, domid: int) -> None:
        domain = self.guest(domid)
        domain.paused = True
        self._changed(domain)

    def unpause(self, domid: int) -> None:
        domain = self.guest(domid)
        domain.paused = False
        self._changed(domain)

    def shut_down(self, domid: int, reason: int) -> None:
        """The guest shuts down; a domain that already did keeps its first reason."""
        domain = self.guest(domid)
        if domain.shutdown_reason is None and not domain.dying:
            domain.shutdown_reason = reason
            self._changed(domain)
            self._on_exception(domid)

    def resume(self, domid: int) -> None:
        """Take back a shutdown, as after a suspend that was called off."""
        domain = self.guest(domid)
        domain.shutdown_reason = None
        self._changed(domain)

    def start_dying(self, domid: int) -> None:
        """The domain stays in the list, but is as good as gone."""
        domain = self.guest(domid)
        if not domain.dying:
            domain.dying = True
            self._changed(domain)
            self._on_exception(domid)

    def destroy(self, domid: int) -> None:
        """The domain leaves the list, and its id is free."""
        domain = self.guest(domid)
        domain.dying = True
        del self._domains[domid]
        del self._order[bisect_left(self._order, domid)]
        self._changed(domain)
        self._on_exception(domid)

    def _changed(self, domain: Domain) -> None:
        domain.clock()
        self._serial += 1
        self._changes.pop(domain.domid, None)
        self._changes[domain.domid] = self._serial

    def changes_since(self, serial: int) -> tuple[int, builtins.list[int]]:
        """The present serial, and the ids of domains that came, went or changed state after `serial`."""
        # No loop over them in Python: a program with ten thousand domains would stand still for it.
        at_most = min(max(0, self._serial - serial), len(self._changes))
        domids = list(islice(reversed(self._changes), at_most))
        del domids[bisect_left(domids, -serial, key=lambda domid: -self._changes[domid]) :]
        return self._serial, domids
