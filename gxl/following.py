# SPDX-License-Identifier: LGPL-2.1-or-later
"""Following domains that nobody has named yet."""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import Self
from uuid import UUID

from gxl.evgens import DomainDeathEvgen, Sink
from gxl.interfaces import DomainInfo
from gxl.pump import Pump


class Following:
    """An evgen for every domain: made by Context.follow_domains, ended by disable() or the end of its with block."""

    def __init__(self, pump: Pump, user: int, sink: Sink) -> None:
        self._pump = pump
        self._user = user
        self.sink = sink
        self._evgens: dict[tuple[int, UUID], DomainDeathEvgen] = {}
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
        present = {(info.domid, info.uuid): info for info in domains if info.domid != 0}
        for life in [life for life, evgen in self._evgens.items() if evgen.finished]:
            # One that is reported dead and not dying has begun another life, by the same domid and UUID.
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
