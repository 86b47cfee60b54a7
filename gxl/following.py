# SPDX-License-Identifier: LGPL-2.1-or-later
"""Following domains that nobody has named yet."""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import Self
from uuid import UUID

from gxl.evgens import DomainDeathEvgen, Sink
from gxl.identity import info_of
from gxl.interfaces import DomainInfo
from gxl.pump import Pump


class Following:
    """An evgen for every domain: made by Context.follow_domains, ended by disable() or the end of its with block."""

    def __init__(self, pump: Pump, user: int, sink: Sink) -> None:
        self._pump = pump
        self._user = user
        self.sink = sink
        self._evgens: dict[tuple[int, UUID], DomainDeathEvgen] = {}
        self._looking = self._again = False
        with pump.lock:
            if pump.outage is None:
                self.look(pump.engine.list_domain())
            pump.followings[self] = None

    def disable(self) -> None:
        """Stop following. Events that occurred before may still be returned. Idempotent.

        Raises MisuseError in a thread that the context does not belong to.
        """
        self._pump.check_caller()
        with self._pump.lock:
            self._pump.followings.pop(self, None)
            for evgen in list(self._evgens.values()):
                evgen.disable()
            self._evgens.clear()

    def look(self, domains: Iterable[DomainInfo]) -> None:
        """Watch whatever domain is not watched yet: of these, which are all that there are now."""
        if self._looking:
            # To enable an evgen delivers what has arrived, and the news that others have appeared may be among it.
            self._again = True
            return
        self._looking = True
        try:
            self._watch(domains)
            while self._again and self._pump.outage is None:
                self._again = False
                self._watch(self._pump.engine.list_domain())
        finally:
            self._looking = self._again = False

    def _watch(self, domains: Iterable[DomainInfo]) -> None:
        present = {(info.domid, info.uuid): info for info in domains if info.domid != 0}
        for life in [life for life, evgen in self._evgens.items() if evgen.finished]:
            # One that is reported dead and not dying has begun another life, by the same domid and UUID; or it has died
            # since somebody looked.
            if life in present and not present[life].dying:
                now = info_of(self._pump.engine, life[0])
                if now is None or now.dying or now.uuid != life[1]:
                    del present[life]
            if life not in present or not present[life].dying:
                del self._evgens[life]
        for life, info in present.items():
            if life not in self._evgens:
                watch = self._pump.feeds.watch_domain
                self._evgens[life] = watch(life[0], self._user, self.sink, present=True, info=info)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.disable()
