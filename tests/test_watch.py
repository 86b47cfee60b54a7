# SPDX-License-Identifier: LGPL-2.1-or-later
"""Watchers: iterating over domains' events, with a bounded queue of one's own; against each engine."""

from __future__ import annotations

from collections import Counter
from typing import Any
from uuid import UUID

import gevent
import pytest
from worlds import World, outcome, settle, until

import gxl
from gxl import DomainDeath, DomainShutdown, EventsLost


def test_an_iteration_over_given_domains_ends_when_the_last_has_died(world: World) -> None:
    ctx = world.open()
    one, two = world.host.create_domain("one"), world.host.create_domain("two")
    watcher = ctx.watch("one", two)
    events = gevent.spawn(list, watcher)
    world.host.shutdown_domain(one, 3)
    world.host.destroy_domain(one)
    world.host.destroy_domain(two)
    kinds = [(type(event), event.domid) for event in outcome(events)]
    assert kinds in (
        [(DomainShutdown, one), (DomainDeath, one), (DomainDeath, two)],
        [(DomainDeath, one), (DomainDeath, two)],
    )
    assert not ctx._pump.feeds.by_token
    assert not ctx._pump.enders


def test_without_a_domain_all_are_followed_those_that_appear_later_too(world: World) -> None:
    ctx = world.open()
    with ctx.watch(types=[DomainDeath]) as watcher:
        domid = world.host.create_domain("later")
        until(lambda: ctx._pump.feeds._domains)
        ctx.list_domain()
        world.host.shutdown_domain(domid, 0)
        world.host.destroy_domain(domid)
        assert next(watcher).name == "later"
    assert list(watcher) == []
    assert not ctx._pump.feeds.by_token


def test_a_domain_that_comes_back_by_its_domid_and_uuid_is_followed_again(world: World) -> None:
    ctx = world.open()
    domid = world.host.create_domain("first", uuid=UUID(int=9))
    with ctx.watch(timeout=5) as watcher:
        world.host.destroy_domain(domid)
        assert isinstance(next(watcher), DomainDeath)
        assert world.host.create_domain("second", domid, uuid=UUID(int=9)) == domid
        world.barrier(ctx)
        world.host.shutdown_domain(domid, 3)
        found = next(event for event in watcher if event.domid == domid)
        assert (type(found), found.name) == (DomainShutdown, "second")


def test_what_is_true_already_is_told_with_the_domains_name(world: World) -> None:
    ctx = world.open()
    domid = world.host.create_domain("early")
    world.host.shutdown_domain(domid, 1)
    for domains in ((), (domid,), ("early",)):
        with ctx.watch(*domains, timeout=5) as watcher:
            event = next(watcher)
            assert (event.domid, event.name) == (domid, "early")


def test_a_name_that_does_not_come_holds_an_event_back_until_the_timeout_and_loses_nothing(world: World) -> None:
    ctx = world.open()
    with world.unnamed(ctx) as domid:
        watcher = ctx.watch(domid, timeout=0.02)
        assert [(event.domid, event.name) for event in watcher] == [(domid, None)]


def test_a_domain_that_is_given_twice_is_watched_once(world: World) -> None:
    ctx = world.open()
    domid = world.host.create_domain("twice")
    watcher = ctx.watch("twice", domid, types=DomainDeath)
    world.host.destroy_domain(domid)
    assert [event.domid for event in watcher] == [domid]


def test_watchers_take_nothing_from_each_other_or_from_the_queue(world: World) -> None:
    ctx = world.open()
    domid = world.host.create_domain()
    ctx.evenable_domain_death(domid, user=5)
    watchers = [ctx.watch(domid) for _ in range(1000)]
    assert len(ctx._pump.feeds.by_token) == 1
    world.host.destroy_domain(domid)
    assert all([type(event) for event in watcher] == [DomainDeath] for watcher in watchers)
    assert ctx.event_wait(timeout=5).for_user == 5


def test_the_iteration_ends_after_the_timeout(world: World) -> None:
    ctx = world.open()
    assert list(ctx.watch(world.host.create_domain(), timeout=0.02)) == []
    assert not ctx._pump.feeds.by_token


@pytest.mark.parametrize("overflow", ["drop_newest", "drop_oldest"])
def test_what_a_full_queue_drops_is_said_where_it_was_dropped(world: World, overflow: str) -> None:
    ctx = world.open()
    domids = [world.host.create_domain() for _ in range(5)]
    watcher = ctx.watch(*domids, maxlen=2, overflow=overflow)
    for domid in domids:
        world.host.destroy_domain(domid)
    world.barrier(ctx)
    events = list(watcher)
    gap = next(event for event in events if isinstance(event, EventsLost))
    assert (gap.count, watcher.lost) == (3, 3)
    found = [event.domid for event in events if isinstance(event, DomainDeath)]
    assert found == (domids[:2] if overflow == "drop_newest" else domids[3:])
    assert events.index(gap) == (2 if overflow == "drop_newest" else 0)


@pytest.mark.parametrize("overflow", ["drop_newest", "drop_oldest"])
def test_where_events_were_dropped_the_order_is_that_of_the_numbers(world: World, overflow: str) -> None:
    ctx = world.open()
    domids = [world.host.create_domain() for _ in range(6)]
    with ctx.watch(*domids, maxlen=2, overflow=overflow) as watcher:
        for domid in domids[:4]:
            world.host.destroy_domain(domid)
        world.barrier(ctx)
        events = [next(watcher) for _ in range(2)]
        world.host.destroy_domain(domids[4])
        world.barrier(ctx)
        events += [next(watcher) for _ in range(2)]
    assert sum(isinstance(event, EventsLost) for event in events) == 1
    assert sorted(events) == events
    times = [event.time or 0.0 for event in events]
    assert sorted(times) == times


def test_a_consumer_that_made_room_loses_nothing_more(world: World) -> None:
    ctx = world.open()
    domids = [world.host.create_domain() for _ in range(4)]
    with ctx.watch(*domids, maxlen=1) as watcher:
        for domid in domids[:2]:
            world.host.destroy_domain(domid)
        world.barrier(ctx)
        assert next(watcher).domid == domids[0]
        world.host.destroy_domain(domids[2])
        world.barrier(ctx)
        gap = next(watcher)
        assert isinstance(gap, EventsLost)
        assert gap.count == 1
        assert next(watcher).domid == domids[2]
        world.host.destroy_domain(domids[3])
        assert [event.domid for event in watcher] == [domids[3]]


def test_several_greenlets_share_a_watcher_each_event_goes_to_one(world: World) -> None:
    ctx = world.open()
    domids = [world.host.create_domain() for _ in range(4)]
    watcher = ctx.watch(*domids)
    readers = [gevent.spawn(list, watcher) for _ in range(3)]
    settle()
    for domid in domids:
        world.host.destroy_domain(domid)
    assert sorted(event.domid for reader in readers for event in outcome(reader)) == domids


def test_whoever_iterates_learns_that_the_context_has_ended(world: World) -> None:
    ctx = world.open()
    watcher = ctx.watch(world.host.create_domain())
    reader = gevent.spawn(next, watcher)
    settle()
    ctx.close()
    assert isinstance(outcome(reader), gxl.ContextClosed)


def test_a_killed_reader_takes_nothing_with_it(world: World) -> None:
    ctx = world.open()
    domid = world.host.create_domain()
    watcher = ctx.watch(domid)
    reader = gevent.spawn(next, watcher)
    settle()
    reader.kill()
    world.host.destroy_domain(domid)
    assert [type(event) for event in watcher] == [DomainDeath]


def test_a_reader_that_is_killed_when_it_was_woken_leaves_its_event_to_the_next(world: World) -> None:
    ctx = world.open()
    watcher = ctx.watch(world.host.create_domain(), world.host.create_domain())
    readers = [gevent.spawn(next, watcher) for _ in range(2)]
    settle()
    event = DomainDeath(1)
    readers[0].kill(block=False)
    watcher._take(event)  # which wakes the first; it dies before it has run
    assert outcome(readers[1]) is event


@pytest.mark.parametrize("all_domains", [True, False])
def test_a_thousand_watchers_cost_no_more_than_one(
    world: World, monkeypatch: pytest.MonkeyPatch, all_domains: bool
) -> None:
    calls: Counter[str] = Counter()

    def count(owner: Any, name: str) -> None:
        call = getattr(owner, name)

        def counted(*args: Any, **how: Any) -> Any:
            calls[name] += 1
            return call(*args, **how)

        monkeypatch.setattr(owner, name, counted)

    ctx = world.open()
    domids = [world.host.create_domain(f"web{number}") for number in range(3)]
    ctx.list_domain()
    engine = type(ctx._pump.engine)
    for name in ("evenable_domain_death", "evdisable_domain_death"):
        count(engine, name)
    count(ctx._pump.side, "name_of")
    watchers = [ctx.watch(*(() if all_domains else domids), types=DomainDeath) for _ in range(1000)]
    # One evgen of libxl's for each domain, and one question for its name, whoever asks.
    assert calls == {"evenable_domain_death": 3, "name_of": 3}
    assert ctx._pump.feeds.live() == (3000, 3)
    ctx.list_domain()
    if all_domains:
        calls.clear()
        for name in ("list_domain", "domain_info"):
            count(engine, name)
        domids.append(world.host.create_domain("late"))
        until(lambda: calls["evenable_domain_death"])
        settle()
        assert calls == {"evenable_domain_death": 1, "name_of": 1, "list_domain": 1}
    for domid in domids:
        world.host.destroy_domain(domid)
    for watcher in watchers:
        assert [next(watcher).domid for _ in domids] == domids
        watcher.close()
    until(lambda: calls["evdisable_domain_death"] == len(domids))
    assert ctx._pump.feeds.live() == (0, 0)


@pytest.mark.parametrize(
    ("arguments", "how", "error"),
    [
        (["nobody"], {}, LookupError),
        ([], {"maxlen": 0}, ValueError),
        ([], {"maxlen": "5"}, TypeError),
        ([], {"overflow": "silently"}, ValueError),
        ([], {"overflow": ["drop_oldest"]}, ValueError),
        ([], {"types": ["death"]}, TypeError),
        ([], {"types": []}, ValueError),
        ([], {"types": "DomainDeath"}, TypeError),
        ([], {"types": gxl.DiskEject}, ValueError),
        ([], {"timeout": -1}, ValueError),
        ([-1], {}, ValueError),
    ],
)
def test_bad_input_watches_nothing(world: World, arguments: Any, how: Any, error: type[Exception]) -> None:
    ctx = world.open()
    with pytest.raises(error):
        ctx.watch(*arguments, **how)
    assert not ctx._pump.feeds.by_token
    assert not ctx._pump.enders


def test_a_type_that_is_none_is_named_whole(world: World) -> None:
    ctx = world.open()
    wrong: Any = "DomainDeath"
    for call in (lambda: ctx.watch(types=wrong), lambda: ctx.expect(wrong, 1)):
        with pytest.raises(TypeError, match="an event class is needed, not 'DomainDeath'"):
            call()
