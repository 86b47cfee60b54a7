# SPDX-License-Identifier: LGPL-2.1-or-later
"""What an engine hands over unfinished, a Context delivers as an event like any other."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

import pytest

from gxl.drafts import death_draft, eject_draft, shutdown_draft
from gxl.events import Disk, DiskEject, DomainDeath, DomainShutdown, Event, ShutdownReason
from gxl.metrics import Counters
from gxl.stamps import Stamps

LIFE = UUID(int=7)
Make = Callable[[], Event]
PAIRS: list[tuple[Make, Make]] = [
    (lambda: shutdown_draft(7, 1, ShutdownReason.CRASH), lambda: DomainShutdown(7, ShutdownReason.CRASH, for_user=1)),
    (lambda: death_draft(7, 1), lambda: DomainDeath(7, for_user=1)),
    (lambda: eject_draft(7, 1, "hdc", Disk()), lambda: DiskEject(7, "hdc", Disk(), for_user=1)),
]


def stamped(event: Event) -> Event:
    return Stamps(Counters()).stamp(event, LIFE, 5, "web")


@pytest.mark.parametrize(("draft", "event"), PAIRS)
def test_a_stamped_draft_is_what_the_event_itself_would_be(draft: Make, event: Make) -> None:
    made, expected = stamped(draft()), stamped(event())
    assert type(made) is type(expected)
    assert made.seq == 1
    assert made.as_dict() | {"time": None} == expected.as_dict() | {"time": None}
    assert made.time is not None


@pytest.mark.parametrize(("draft", "event"), PAIRS)
def test_a_stamped_draft_can_not_be_changed(draft: Make, event: Make) -> None:
    made = stamped(draft())
    with pytest.raises(AttributeError, match="immutable: domid can't be set"):
        made.domid = 8
    with pytest.raises(AttributeError, match="immutable: domid can't be deleted"):
        del made.domid


@pytest.mark.parametrize(("draft", "event"), PAIRS)
def test_a_draft_is_of_the_events_kind_and_says_what_it_has(draft: Make, event: Make) -> None:
    made = draft()
    assert isinstance(made, type(event()))
    assert made.as_dict() == event().as_dict()
    assert "domid=7" in repr(made)


def test_a_draft_that_was_delivered_is_copied_for_the_next() -> None:
    stamps = Stamps(Counters())
    draft = death_draft(7, 1)
    first, second = stamps.stamp(draft, LIFE, 5, "web"), stamps.stamp(draft, LIFE, 6, "web")
    assert first is draft
    assert (first.seq, first.for_user, second.seq, second.for_user) == (1, 5, 2, 6)
