# SPDX-License-Identifier: LGPL-2.1-or-later
"""Waiting for real domains leaves the hub to everybody else."""

from __future__ import annotations

from contextlib import ExitStack
from statistics import median

import gevent
from gevent import Greenlet
from guests import Guest, Guests
from pace import INTERVAL, Pace

from gxl import Context, DomainDeath, DomainShutdown, Event, EventType, mask

ROUNDS = 5


def test_two_contexts_and_several_greenlets_wait_at_once(guests: Guests, pace: Pace) -> None:
    pair = [guests.tiny(), guests.tiny()]
    with Context("libxl", "gevent") as one, Context("libxl", "gevent") as two:
        for context in (one, two):
            for guest in pair:
                context.evenable_domain_death(guest.domid)

        def wait_everywhere(kind: EventType) -> list[Greenlet[..., Event]]:
            return [
                gevent.spawn(context.event_wait, mask(kind), domid=guest.domid)
                for context in (one, two)
                for guest in pair
            ]

        ending, dying = wait_everywhere(EventType.DOMAIN_SHUTDOWN), wait_everywhere(EventType.DOMAIN_DEATH)
        before = pace.ticks
        gevent.sleep(0.5)
        assert pace.ticks > before
        assert not any(greenlet.dead for greenlet in ending + dying)

        # The last to begin is the first to end: nobody waits for another's turn.
        for number in (1, 0):
            pair[number].order(f"shutdown {number}")
        shutdowns = [greenlet.get() for greenlet in ending]
        assert [event.domid for event in shutdowns] == [guest.domid for guest in pair] * 2
        assert [isinstance(event, DomainShutdown) and event.shutdown_reason for event in shutdowns] == [0, 1, 0, 1]
        assert not any(greenlet.dead for greenlet in dying)

        for guest in reversed(pair):
            gevent.spawn(guest.destroy)
        deaths = [greenlet.get() for greenlet in dying]
        assert [(type(event), event.domid) for event in deaths] == [(DomainDeath, guest.domid) for guest in pair] * 2
        assert one.event_check() is None
        assert two.event_check() is None


def test_the_hub_runs_as_freely_as_without_gxl(guests: Guests) -> None:
    """Rounds alternate, so that whatever else the machine does meets both kinds alike; only their ratio counts.

    In each round a domain is made and destroyed. The worst gap of a round is what a blocked hub would show, the
    typical gap what a busy one would.
    """
    watched = guests.tiny()
    typical: dict[str, list[float]] = {"with": [], "without": []}
    worst: dict[str, list[float]] = {"with": [], "without": []}
    for _ in range(ROUNDS):
        for kind in ("without", "with"):
            gaps = _round(guests, watched, with_gxl=kind == "with")
            typical[kind].append(median(gaps))
            worst[kind].append(max(gaps))
    report = {kind: (median(typical[kind]), median(worst[kind])) for kind in ("without", "with")}
    print("seconds of the median gap and of the worst:", report)
    assert median(typical["with"]) / median(typical["without"]) < 1.5, report
    assert median(worst["with"]) / median(worst["without"]) < 3, report


def _round(guests: Guests, watched: Guest, *, with_gxl: bool) -> list[float]:
    with ExitStack() as stack:
        if with_gxl:
            context = stack.enter_context(Context("libxl", "gevent"))
            context.evenable_domain_death(watched.domid)
            stack.callback(gevent.spawn(context.event_wait, domid=watched.domid).kill)
        pace = stack.enter_context(Pace())
        guest = guests.tiny(paused=True)
        if with_gxl:
            context.evenable_domain_death(guest.domid)
            dying = gevent.spawn(context.event_wait, domid=guest.domid)
            guest.destroy()
            assert isinstance(dying.get(), DomainDeath)
        else:
            guest.destroy()
        gevent.sleep(10 * INTERVAL)
        return pace.gaps
