# SPDX-License-Identifier: LGPL-2.1-or-later
"""The queue of events that have happened and nobody has taken yet.

The header allows event_check to be O(n) in the events that do not match. Here it is not: what a caller can ask for
(a type, a domain, a user value) each has an index of its own, so that a waiter for one domain among thousands finds
its event without looking at the others'. Only a predicate has to see every event that passes the rest.

An index costs more than all else that is done for an event. So there is none until somebody makes a choice: a program
that takes whatever comes needs but a list.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Iterator

from gxl.events import EVENTMASK_ALL, Event
from gxl.interfaces import Predicate

# Below this many taken entries a lane is not worth rebuilding.
_SLACK = 16


class _Lane:
    """The seqs of the queued events of one type, or of one type and domain, …, ascending.

    Taken events stay listed, dead, until they are more than half of the lane: so one that is put back finds its place.
    """

    __slots__ = ("head", "live", "seqs")

    def __init__(self, seq: int) -> None:
        self.seqs = [seq]
        self.head = 0
        self.live = 1

    def add(self, seq: int) -> None:
        self.live += 1
        if seq > self.seqs[-1]:
            self.seqs.append(seq)
            return
        place = bisect_left(self.seqs, seq)
        if self.seqs[place] != seq:
            self.seqs.insert(place, seq)
        self.head = min(self.head, place)

    def drop(self, events: dict[int, Event]) -> None:
        self.live -= 1
        if len(self.seqs) > 2 * self.live + _SLACK:
            # A new list: a walk that is under way keeps its own, whose dead entries it skips.
            self.seqs = [seq for seq in self.seqs if seq in events]
            self.head = 0

    def first(self, events: dict[int, Event]) -> int:
        seqs, head = self.seqs, self.head
        while seqs[head] not in events:
            head += 1
        self.head = head
        return seqs[head]

    def walk(self) -> Iterator[int]:
        seqs, place = self.seqs, self.head
        while place < len(seqs):
            yield seqs[place]
            place += 1


# By type, then by (domid, for_user), where None stands for any.
_Lanes = dict[int, dict[tuple[int | None, int | None], _Lane]]


class EventQueue:
    """Events in the order of their `seq`, each handed out once. Not locked: whoever owns it sees to that."""

    def __init__(self) -> None:
        self.events: OrderedDict[int, Event] = OrderedDict()
        """Those that are queued, by seq. For looking at."""
        # None: the events are in order, and not indexed.
        self._lanes: _Lanes | None = None

    def __len__(self) -> int:
        return len(self.events)

    def put(self, seq: int, event: Event) -> None:
        """Queue `event`, also one that was taken, in its place in the order, `seq`; ValueError if that is not free."""
        events, lanes = self.events, self._lanes
        if seq in events:
            raise ValueError(f"seq {seq} is queued already")
        if lanes is None and events and seq < next(reversed(events)):
            lanes = self._index()
        events[seq] = event
        if lanes is not None:
            _list(lanes, seq, event)

    def take(
        self,
        typemask: int = EVENTMASK_ALL,
        predicate: Predicate | None = None,
        domid: int | None = None,
        user: int | None = None,
    ) -> Event | None:
        """Remove and return the oldest event that passes, or None.

        It must pass `typemask`, concern `domid` and carry `user` (None: any), and `predicate` must be true for it. The
        predicate sees each event that passes the rest, oldest first, once. If it raises, nothing has changed. It may
        itself use the queue; what it adds may or may not be seen by this call.
        """
        if not self.events:
            return None
        key = (domid, user)
        indexed = self._lanes
        if indexed is None:
            if typemask == EVENTMASK_ALL and predicate is None and key == (None, None):
                return self.events.popitem(last=False)[1]
            indexed = self._index()
        wanted = [
            lane
            for kind, lanes in indexed.items()
            if (typemask == EVENTMASK_ALL or (kind >= 0 and typemask >> kind & 1)) and (lane := lanes.get(key))
        ]
        if not wanted:
            return None
        if predicate is None:
            return self._remove(min(lane.first(self.events) for lane in wanted))
        previous = -1
        for seq in heapq.merge(*(lane.walk() for lane in wanted)):
            event = self.events.get(seq)
            # An event that the predicate puts back shifts the lane under the walk, which then meets a seq again.
            if event is None or seq <= previous:
                continue
            previous = seq
            if predicate(event) and self.events.get(seq) is event:
                return self._remove(seq)
        return None

    def clear(self) -> None:
        """Forget every event."""
        self.events.clear()
        self._lanes = None

    def _index(self) -> _Lanes:
        lanes: _Lanes = {}
        for seq, event in self.events.items():
            _list(lanes, seq, event)
        self._lanes = lanes
        return lanes

    def _remove(self, seq: int) -> Event:
        event = self.events.pop(seq)
        if not self.events:
            self._lanes = None
        if self._lanes is None:
            return event
        lanes = self._lanes[event.type]
        for key in _keys(event):
            lane = lanes[key]
            if lane.live == 1:
                del lanes[key]
            else:
                lane.drop(self.events)
        if not lanes:
            del self._lanes[event.type]
        return event


def _list(all_lanes: _Lanes, seq: int, event: Event) -> None:
    lanes = all_lanes.setdefault(event.type, {})
    for key in _keys(event):
        lane = lanes.get(key)
        if lane is None:
            lanes[key] = _Lane(seq)
        else:
            lane.add(seq)


def _keys(event: Event) -> tuple[tuple[int | None, int | None], ...]:
    domid, user = event.domid, event.for_user
    return (None, None), (domid, None), (None, user), (domid, user)
