# SPDX-License-Identifier: LGPL-2.1-or-later
"""What each evgen is to report, and what it has: everything once, in order, and to nobody else."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from gxl import DiskEject, DomainDeath, DomainShutdown, Event, EventsLost, Resynced


@dataclass
class Account:
    """One evgen, known by the user value that it was enabled with."""

    domid: int
    kind: str
    shutdowns: int = 0
    deaths: int = 0
    ejects: int = 0
    lost: int = 0


class Ledger:
    """All accounts of one Context; `wrong` says what must not have happened."""

    def __init__(self) -> None:
        self._accounts: dict[int, Account] = {}
        self._users = 0
        self._waiting: set[int] = set()
        self.wrong: list[str] = []
        self.counts: Counter[str] = Counter()

    def open(self, domid: int, kind: str) -> int:
        """The user value for a new evgen."""
        self._users += 1
        self._accounts[self._users] = Account(domid, kind)
        if kind == "death":
            self._waiting.add(self._users)
        return self._users

    def close(self, user: int) -> None:
        """The evgen is being disabled."""
        self._waiting.discard(user)

    def undead(self) -> list[int]:
        """The evgens whose domain has not been reported dead."""
        return sorted(self._waiting)

    def account(self, user: int) -> Account:
        return self._accounts[user]

    def take(self, event: Event) -> None:
        """Somebody got this event from the Context's queue."""
        self.counts[type(event).__name__] += 1
        if isinstance(event, Resynced):
            return
        account = self._accounts.get(event.for_user)
        if account is None:
            self.wrong.append(f"nobody asked for {event!r}")
            return
        if event.domid != account.domid:
            self.wrong.append(f"domain {account.domid}'s evgen reported {event!r}")
        if account.deaths:
            self.wrong.append(f"after the death came {event!r}")
        if isinstance(event, DomainShutdown):
            account.shutdowns += 1
            if account.shutdowns > 1:
                self.wrong.append(f"a second shutdown: {event!r}")
        elif isinstance(event, DomainDeath):
            account.deaths += 1
            self._waiting.discard(event.for_user)
        elif isinstance(event, DiskEject):
            account.ejects += 1
        elif isinstance(event, EventsLost):
            account.lost += 1
