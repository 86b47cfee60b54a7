# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who a domain is, for an event that will tell of it when it may be gone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import UUID

from gxl.errors import DomainNotFound, GxlError
from gxl.interfaces import DomainInfo, IEngine

if TYPE_CHECKING:
    from gxl.pump import Pump


class Identity:
    """A domain's UUID and name, as far as they are known."""

    __slots__ = ("name", "uuid")

    def __init__(self, uuid: UUID | None, name: str | None) -> None:
        self.uuid = uuid
        self.name = name

    @classmethod
    def of(cls, pump: Pump, domid: int) -> Identity:
        """Who has this domid now. Does not wait: the name comes when xenstored answers."""
        with pump.lock:
            try:
                found = cls(*pump.feeds.known(domid))
            except GxlError:
                return cls(None, None)
            pump.side.name_of(domid, found._called)
            return found

    @classmethod
    def of_config(cls, c_info: dict[str, Any]) -> Identity:
        """Who will be created."""
        name = c_info.get("name")
        return cls(UUID(str(c_info["uuid"])), name if isinstance(name, str) else None)

    def _called(self, name: str | None) -> None:
        if name is not None:
            self.name = name


def info_of(engine: IEngine, domid: int) -> DomainInfo | None:
    """How the domain is that has this domid; None if there is none."""
    try:
        return engine.domain_info(domid)
    except DomainNotFound:
        return None
