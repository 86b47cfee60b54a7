# SPDX-License-Identifier: LGPL-2.1-or-later
"""The simulated hypervisor's door: what libxl asks of Xen itself, not of xenstore. Errors can be injected here."""

from __future__ import annotations

import os
from collections.abc import Callable
from threading import RLock

from gxl.simhost.domains import DomainInfo, Domains

HYPERCALLS = (
    "getdomaininfolist",
    "getdomaininfo",
    "pausedomain",
    "unpausedomain",
    "resumedomain",
    "createdomain",
    "destroydomain",
    "remote_shutdown",
    "xen_version",
)


class Hypercalls:
    """Hypercalls by their Xen names. Each raises OSError with the errno that the real one would give."""

    def __init__(
        self, domains: Domains, lock: RLock, take_failure: Callable[[str], int], woken: Callable[[int], None]
    ) -> None:
        self._domains = domains
        self._lock = lock
        self._take_failure = take_failure
        self._woken = woken

    def getdomaininfolist(self, first: int, limit: int) -> list[DomainInfo]:
        """At most `limit` domains in ascending order, from the id `first` on."""
        with self._lock:
            self._check("getdomaininfolist")
            return self._domains.list(first, limit)

    def getdomaininfo(self, domid: int, or_next: bool = False) -> DomainInfo:
        """This domain, or with `or_next` the first of those from this id on; ESRCH if there is none."""
        with self._lock:
            self._check("getdomaininfo")
            following = self._domains.list(domid, 1) if or_next else []
            return following[0] if following else self._domains.get(domid).info()

    def pausedomain(self, domid: int) -> None:
        """Stop the domain for now."""
        with self._lock:
            self._check("pausedomain")
            self._domains.pause(domid)

    def unpausedomain(self, domid: int) -> None:
        """Let the domain run again."""
        with self._lock:
            self._check("unpausedomain")
            self._domains.unpause(domid)
            self._woken(domid)

    def resumedomain(self, domid: int) -> None:
        """Take back the domain's shutdown; xenstored hears of it by a RESUME of its own."""
        with self._lock:
            self._check("resumedomain")
            self._domains.resume(domid)
            self._woken(domid)

    def createdomain(self) -> None:
        """Nothing but the chance to fail: SimHost.create_domain does the rest."""
        with self._lock:
            self._check("createdomain")

    def destroydomain(self, domid: int) -> None:
        """End the domain at once. What a toolstack wrote for it into xenstore stays."""
        with self._lock:
            self._check("destroydomain")
            self._domains.destroy(domid)

    def remote_shutdown(self, domid: int, reason: int) -> None:
        """Shut the domain down as if its guest had done so."""
        with self._lock:
            self._check("remote_shutdown")
            self._domains.shut_down(domid, reason)

    def xen_version(self) -> None:
        """Nothing but the chance to fail; the simulated version is the server's to tell."""
        with self._lock:
            self._check("xen_version")

    def _check(self, call: str) -> None:
        if number := self._take_failure(call):
            raise OSError(number, f"{os.strerror(number)}: injected into {call}")
