# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who has to know, apart from the mailbox's waiters, what becomes of a context, its connection and its domains."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from gxl.errors import Disaster, GxlError
from gxl.evgens import Sink
from gxl.interfaces import DomainInfo


class Ender(Protocol):
    """Something that has to know what becomes of the context."""

    def end(self, error: GxlError) -> None:
        """It has ended: nothing more will come."""

    def resynced(self, reason: str, since: float) -> None:
        """It was cut off from Xen since then, and what happened meanwhile is reported next."""

    def missed(self, disaster: Disaster) -> bool:
        """An event of the disaster's type may be missing, and others will come. Whether that matters here."""


class Asker(Protocol):
    """Something that waits for an answer by the connection that there is now."""

    def end(self, error: GxlError) -> None:
        """The connection is lost, and no answer will come."""


class Follower(Protocol):
    """Something that has to know when domains appear. What it watches, it reports to `sink`."""

    sink: Sink

    def look(self, domains: Iterable[DomainInfo]) -> None:
        """Domains have appeared, perhaps: these are all that there are now."""
