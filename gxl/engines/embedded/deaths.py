# SPDX-License-Identifier: LGPL-2.1-or-later
"""Evgens for the shutdown and death of domains.

libxl looks at every domain that it has an unreported evgen for whenever xenstored fires @releaseDomain, which it does
when any domain shuts down or goes, and once when a watch on it is new. It reports the states that it finds. So an
evgen that is enabled while the watch exists hears nothing until somebody fires it: `xl` relies on that when it watches
a suspended domain anew. Here only the domains that changed since the last look are looked at, and those whose evgens
are new: the result is the same.
"""

from __future__ import annotations

from collections import deque

from zope.interface import implementer

from gxl.engines.embedded.core import Core
from gxl.engines.embedded.store import Store, Watch
from gxl.errors import MisuseError
from gxl.events import DomainDeath, DomainShutdown
from gxl.interfaces import IEvgen
from gxl.simhost import DomainInfo, SimHost

_RELEASE_DOMAIN = b"@releaseDomain"
_SLICE = 32
"""So many domains are looked at in one call: a loop has others to serve when ten thousand have changed."""


@implementer(IEvgen)
class DeathEvgen:
    """A handle that evenable_domain_death returned."""

    __slots__ = ("domid", "shutdown_reported", "user")

    def __init__(self, domid: int, user: int) -> None:
        self.domid = domid
        self.user = user
        self.shutdown_reported = False


class Deaths:
    """All death evgens of one engine."""

    def __init__(self, core: Core, store: Store, host: SimHost) -> None:
        self._core = core
        self._store = store
        self._host = host
        # Unreported evgens, by domid; those of one domain in the order in which they were enabled.
        self._waiting: dict[int, dict[DeathEvgen, None]] = {}
        # Those whose DomainDeath has been generated: of no more use, but still to be disabled.
        self._reported: set[DeathEvgen] = set()
        # Domains that the next look is to include: with evgens that none has taken into account yet, or changed since.
        self._new: set[int] = set()
        self._seen = 0
        # Domains that have changed, ascending, and are to be looked at in calls to come.
        self._due: deque[int] = deque()
        self._watch: Watch | None = None

    def __bool__(self) -> bool:
        return bool(self._waiting or self._reported)

    def enable(self, domid: int, user: int) -> DeathEvgen:
        if self._watch is None:
            self._watch = self._store.watch(_RELEASE_DOMAIN, self._look)
            self._seen, _ = self._host.changes_since(self._seen)
        evgen = DeathEvgen(domid, user)
        self._waiting.setdefault(domid, {})[evgen] = None
        self._new.add(domid)
        return evgen

    def disable(self, evgen: object) -> None:
        if not isinstance(evgen, DeathEvgen):
            raise TypeError(f"what evenable_domain_death returned is needed, not {evgen!r}")
        if evgen in self._reported:
            self._reported.discard(evgen)
        elif evgen in self._waiting.get(evgen.domid, ()):
            self._forget(evgen)
        else:
            raise MisuseError("this evgen is disabled already, or it is another engine's")
        if not self._waiting and self._watch is not None:
            watch, self._watch = self._watch, None
            self._store.unwatch(watch)

    def disable_all(self) -> None:
        for evgen in [*self._reported, *(evgen for evgens in self._waiting.values() for evgen in evgens)]:
            self.disable(evgen)

    def _forget(self, evgen: DeathEvgen) -> None:
        evgens = self._waiting[evgen.domid]
        del evgens[evgen]
        if not evgens:
            del self._waiting[evgen.domid]
            self._new.discard(evgen.domid)

    def _look(self) -> None:
        if not self._waiting:
            return
        self._seen, changed = self._host.changes_since(self._seen)
        self._new.update(self._waiting.keys() & changed)
        if len(self._new) > _SLICE:
            self._store.call_again(self._begin)
        else:
            self._begin()

    def _begin(self) -> None:
        self._due, self._new = deque(sorted(self._new)), set()
        self._look_on()

    def _look_on(self) -> None:
        due = self._due
        try:
            if not due:
                # Even if nothing seems to have changed, whether the hypervisor answers is to be known.
                self._state(next(iter(self._waiting)))
            for _ in range(min(_SLICE, len(due))):
                domid = due.popleft()
                if domid in self._waiting:
                    info = self._state(domid)
                    # libxl keeps its list by domid, and puts a new evgen in front of those with the same one.
                    for evgen in list(reversed(self._waiting[domid])):
                        self._report(evgen, info)
        except OSError as error:
            self._core.disaster(
                0, "xc_domain_getinfolist failed while processing @releaseDomain watch event", error.errno or 0
            )
            return
        if due:
            self._store.call_again(self._look_on)

    def _state(self, domid: int) -> DomainInfo | None:
        listed = self._host.hypercalls.getdomaininfolist(domid, 1)
        return listed[0] if listed and listed[0].domid == domid else None

    def _report(self, evgen: DeathEvgen, info: DomainInfo | None) -> None:
        if info is None or info.dying:
            self._core.occurred(DomainDeath(evgen.domid, for_user=evgen.user))
            self._forget(evgen)
            self._reported.add(evgen)
        elif info.shutdown and not evgen.shutdown_reported:
            self._core.occurred(DomainShutdown(evgen.domid, info.shutdown_reason, for_user=evgen.user))
            evgen.shutdown_reported = True
