# SPDX-License-Identifier: LGPL-2.1-or-later
"""What an application holds of its interest in events, and what feeds it. gxl.feeds makes both of them work."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Self
from uuid import UUID

from zope.interface import implementer

from gxl.events import DomainShutdown, Event, ShutdownReason
from gxl.floods import Allowance
from gxl.interfaces import DomainInfo, IEngine, IEvgen

if TYPE_CHECKING:
    from gxl.feeds import Feeds

Sink = Callable[[Event], object]
Life = tuple[int, UUID]
"""A domid, and the UUID of the domain that has it."""


@implementer(IEvgen)
class Evgen:
    """Something that generates events until it is disabled: returned by Context.evenable_*.

    A context manager: `with ctx.evenable_domain_death(domid): …` disables it at the end of the block.
    """

    __slots__ = ("domid", "user", "_feeds", "_feed", "sink", "__weakref__")

    def __init__(self, feeds: Feeds, domid: int, user: int, sink: Sink) -> None:
        self.domid = domid
        self.user = user
        self._feeds = feeds
        self._feed: DomainFeed | DiskFeed | None = None
        self.sink = sink

    def disable(self) -> None:
        """Stop generating events. Those that occurred before may still be returned. Idempotent.

        Raises MisuseError in a thread that the context does not belong to.
        """
        self._feeds.check_caller()
        # Once the context has ended there is nothing to do, and in a forked child nobody to let go of the lock.
        if self._feed is not None or self in self._feeds.pending:
            with self._feeds.lock:
                self._feeds.disable(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.disable()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} domid={self.domid} user={self.user}{self._state()}>"

    def _state(self) -> str:
        return "" if self._feed else ", waits for xenstored" if self in self._feeds.pending else ", disabled"


class DomainDeathEvgen(Evgen):
    """Generates DomainShutdown and DomainDeath for one life of a domain, each once at most."""

    __slots__ = ("_shutdown_reported", "_death_reported", "_held_over")

    def __init__(self, feeds: Feeds, domid: int, user: int, sink: Sink) -> None:
        super().__init__(feeds, domid, user, sink)
        self._shutdown_reported = False
        self._death_reported = False
        self._held_over: tuple[int, ShutdownReason | int | None] | None = None

    @property
    def finished(self) -> bool:
        """Whether the death was reported: nothing comes after it."""
        return self._death_reported


class DiskEjectEvgen(Evgen):
    """Generates a DiskEject each time the guest ejects the medium of one disk."""

    __slots__ = ("vdev", "flooded")

    def __init__(self, feeds: Feeds, domid: int, user: int, sink: Sink, vdev: str) -> None:
        super().__init__(feeds, domid, user, sink)
        self.vdev = vdev
        self.flooded = False
        """Whether it was disabled since the guest ejected the disk too often (gxl.floods). Enable another to go on."""

    def _state(self) -> str:
        return ", disabled: flooded" if self.flooded else super()._state()


def check_own(evgen: Evgen, kind: type[Evgen], feeds: Feeds) -> None:
    """Raises TypeError for what is no evgen of this kind, and ValueError for one that is another Context's."""
    if not isinstance(evgen, kind):
        raise TypeError(f"a {kind.__name__} is needed, not {evgen!r}")
    if evgen._feeds is not feeds:
        raise ValueError(f"{evgen!r} belongs to another Context")


class DomainFeed:
    """The engine's evgen for one life of a domain, and whom it serves. `handle` is the evgen; None: it is off."""

    __slots__ = ("domid", "uuid", "name", "named", "token", "_engine", "handle", "members", "spent")

    def __init__(self, domid: int, uuid: UUID, token: int) -> None:
        self.domid = domid
        self.uuid = uuid
        self.name: str | None = None
        self.named = False
        self.token = token
        self._engine: IEngine | None = None
        self.handle: object = None
        self.members: dict[DomainDeathEvgen, None] = {}
        self.spent = False

    def engage(self, engine: IEngine) -> None:
        """Enable it at `engine`."""
        self.handle, self._engine = engine.evenable_domain_death(self.domid, self.token), engine

    def disengage(self) -> Callable[[], object]:
        """It is off from now on. Returns what disables it at the engine."""
        assert self._engine is not None
        disable = partial(self._engine.evdisable_domain_death, self.handle)
        self.handle = self._engine = None
        return disable


class DiskFeed:
    """The engine's evgen for one disk, and whom it serves. `handle` is the evgen; None: it is off."""

    __slots__ = ("domid", "devid", "uuid", "name", "named", "token", "_engine", "handle", "members", "allowance")

    def __init__(self, domid: int, number: int, uuid: UUID | None, token: int) -> None:
        self.domid = domid
        self.devid = number
        self.uuid = uuid
        self.name: str | None = None
        self.named = False
        self.token = token
        self._engine: IEngine | None = None
        self.handle: object = None
        self.members: dict[DiskEjectEvgen, None] = {}
        self.allowance = Allowance()

    def engage(self, engine: IEngine, vdev: str) -> None:
        """Enable it at `engine`."""
        self.handle, self._engine = engine.evenable_disk_eject(self.domid, vdev, self.token), engine

    def disengage(self) -> Callable[[], object]:
        """It is off from now on. Returns what disables it at the engine."""
        assert self._engine is not None
        disable = partial(self._engine.evdisable_disk_eject, self.handle)
        self.handle = self._engine = None
        return disable


def shutdown_of(info: DomainInfo) -> DomainShutdown:
    """The event that tells of a shutdown which holds already."""
    return DomainShutdown(info.domid, ShutdownReason.POWEROFF if info.shutdown_reason is None else info.shutdown_reason)
