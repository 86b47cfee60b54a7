# SPDX-License-Identifier: LGPL-2.1-or-later
"""What domains are called, as far as one Context has heard; and who waits to hear."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

from gxl.events import Event
from gxl.evgens import DiskFeed, DomainFeed, Life
from gxl.sidechannel import SideChannel

Told = Callable[[str | None], object]


class Names:
    """The names of one Context's domains."""

    def __init__(self) -> None:
        # As they were when somebody last asked for all of them.
        self._listed: dict[Life, str] = {}
        self._asking: dict[Life, list[Told]] = {}
        self.creating: dict[UUID, str | None] = {}
        """What those are to be called that are being created."""

    def learn(self, names: dict[Life, str]) -> None:
        """From now on domains that are not watched yet are known by these names, until it is known better."""
        self._listed = names

    def of(self, life: Life) -> str | None:
        """What this domain is called, if that is known."""
        return self._listed.get(life) or self.creating.get(life[1])

    def ask(self, feed: DomainFeed | DiskFeed, side: SideChannel | None) -> None:
        """Ask for the name of a feed's domain, and have the feed know it when it comes."""
        if side is None:
            return
        life = None if feed.uuid is None else (feed.domid, feed.uuid)
        if life is not None:
            feed.name = self.of(life)
            self._asking.setdefault(life, [])

        def arrived(name: str | None) -> None:
            if name is not None:
                feed.name = name
            feed.named = True
            if life is not None:
                self.told(life, feed.name)

        side.name_of(feed.domid, arrived)

    def told(self, life: Life, name: str | None) -> None:
        """The name has come, or is known not to come."""
        for then in self._asking.pop(life, ()):
            then(name)

    def no_answers(self) -> None:
        """The connection is lost: what was asked for does not come."""
        for life in list(self._asking):
            self.told(life, None)

    def when_named(self, event: Event, then: Callable[[Event], object]) -> bool:
        """Whether `event` lacks its domain's name, and that is on its way.

        Then `then` is called with a copy that has it; or with the event itself, if there turns out to be none.
        """
        if event.name is not None or event.domuuid is None or (event.domid, event.domuuid) not in self._asking:
            return False
        self._asking[event.domid, event.domuuid].append(lambda name: then(_christened(event, name)))
        return True


def _christened(event: Event, name: str | None) -> Event:
    if name is None:
        return event
    assert event.seq is not None
    assert event.time is not None
    return event.stamped(event.domuuid, event.for_user, event.seq, event.time, name)
