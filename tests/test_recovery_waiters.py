# SPDX-License-Identifier: LGPL-2.1-or-later
"""Those who wait while a Context loses its xenstored and finds it again; against each engine."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import gevent
import pytest
from leaks import Ledger, census
from outages import back, lost, soon, turn
from worlds import World, until

import gxl
from gxl import DomainDeath, DomainShutdown, Resynced, arrivals, recovery
from gxl.errors import Fail
from gxl.sidechannel import SideChannel

pytestmark = pytest.mark.usefixtures(soon.__name__)


def test_waiters_watchers_expectations_and_followings_live_on(world: World) -> None:
    ctx = world.open(recover=True)
    domid = world.host.create_domain("old")
    waiter = gevent.spawn(ctx.event_wait, gxl.mask(DomainDeath), domid=domid)
    ctx.evenable_domain_death(domid)
    watcher, everything = ctx.watch(domid), ctx.watch(types=[DomainDeath])
    with ctx.expect(DomainDeath, domid) as death:
        expecting = gevent.spawn(death.wait)
        gevent.sleep(0)
        with world.host.down():
            lost(ctx)
            new = world.host.create_domain("new")
            world.host.destroy_domain(domid)
        assert isinstance(expecting.get(timeout=10), DomainDeath)
    assert isinstance(waiter.get(timeout=10), DomainDeath)
    assert [type(event) for event in watcher] == [Resynced, DomainDeath]
    assert isinstance(next(everything), Resynced)
    assert next(everything).domid == domid
    world.host.destroy_domain(new)
    assert (event := next(everything)).domid == new
    assert event.name == "new"
    assert not [found for found in ctx._pump.enders if found is watcher]


def test_a_recovered_context_holds_as_much_as_before_it_was_lost(world: World, sealed: Ledger) -> None:
    ctx = world.open(recover=True)
    domid = world.host.create_domain()
    world.host.add_disk(domid, "xvdc")
    evgens = ctx.evenable_domain_death(domid), ctx.evenable_disk_eject(domid, "xvdc")
    waiter = gevent.spawn(ctx.event_wait, gxl.mask(DomainDeath), domid=domid)
    watcher = ctx.watch(domid)
    world.barrier(ctx)

    def registered() -> tuple[int, int, int]:
        metrics = ctx.metrics()
        return metrics.fds, metrics.timeouts, metrics.evgens

    before, registrations = census(), registered()
    for _ in range(3):
        operations = [ctx.domain_shutdown(world.host.create_domain(paused=True), wait=False) for _ in range(2)]
        operations.append(ctx.domain_destroy(world.host.create_domain(), wait=False))
        with world.host.down():
            lost(ctx)
        back(ctx)
        assert all(operation.done for operation in operations)
        turn(ctx, lambda: len(list(ctx._pump.reigns())) == 1)  # the former one is freed when the child has ended
    turn(ctx, lambda: registered() == registrations and census() == before)
    assert (ctx.metrics().recoveries, ctx.metrics().abandoned) == (3, 0)
    assert [type(next(watcher)) for _ in range(3)] == [Resynced] * 3
    world.host.destroy_domain(domid)
    assert isinstance(waiter.get(timeout=10), DomainDeath)
    for evgen in evgens:
        evgen.disable()


def test_a_loss_amid_a_storm_ends_nobodys_wait(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    reported: list[object] = []
    monkeypatch.setattr(gevent.get_hub(), "handle_error", lambda context, kind, value, tb: reported.append(value))
    # As where domains appear all the time: then the engine is asked at each event whose the domid is.
    monkeypatch.setattr(SideChannel, "catch_up", lambda self: False)
    ctx = world.open(recover=True)
    domids = [world.host.create_domain() for _ in range(200)]
    for domid in domids:
        ctx.evenable_domain_death(domid)
    waiting = [gevent.spawn(ctx.event_wait, domid=domid) for domid in domids]
    gevent.sleep(0)
    # What one call of the engine finds is delivered over several turns of the loop. Amid these xenstored goes.
    waiting[0].link(lambda _: world.host.drop_connections())
    with world.host.quiet():
        for domid in domids:
            world.host.shutdown_domain(domid, 3)
    gevent.joinall(waiting, timeout=20)
    assert {type(waiter.value or waiter.exception) for waiter in waiting} == {DomainShutdown}
    turn(ctx, lambda: ctx.metrics().recoveries)
    assert [type(event) for event in iter(ctx.event_check, None)] == [Resynced]
    assert reported == []


def test_evgens_are_enabled_anew_turn_by_turn_and_whatever_happens_in_between_is_reported_once(world: World) -> None:
    ctx = world.open(recover=True)
    host = world.host
    gone, off, ejecting, given_up, *rest = (host.create_domain() for _ in range(40))
    host.add_disk(ejecting, "xvdc")
    ctx.evenable_disk_eject(ejecting, "xvdc", user=1)
    evgens = {domid: ctx.evenable_domain_death(domid) for domid in (gone, off, ejecting, given_up, *rest)}
    world.barrier(ctx)
    recovery = ctx._pump.recovery
    assert recovery is not None
    host.drop_connections()
    turn(ctx, lambda: recovery._next)
    turns = 0

    def served() -> bool:
        nonlocal turns
        turns += recovery._next is not None
        if turns == 5:
            host.destroy_domain(gone)
            host.shutdown_domain(off, 3)
            host.eject_disk(ejecting, "xvdc")
            evgens[given_up].disable()
            host.destroy_domain(given_up)
            ctx.evenable_domain_death(rest[0], user=2)
            with pytest.raises(gxl.Outage):
                ctx.list_domain()
        return ctx.outage is None

    while not served():
        gevent.sleep(0.001)
    assert turns > 5, "all at once"
    first, *events = world.drained(ctx)
    assert isinstance(first, Resynced)
    assert sorted((type(event).__name__, event.domid) for event in events) == [
        ("DiskEject", ejecting),
        ("DomainDeath", gone),
        ("DomainShutdown", off),
    ]
    host.destroy_domain(rest[0])
    assert sorted(event.for_user for event in world.drained(ctx)) == [0, 2]


def test_evgens_of_an_outage_are_enabled_turn_by_turn_though_xenstored_dies_in_between(
    world: World,
) -> None:
    ctx = world.open(recover=True)
    host = world.host
    gone, off, ejecting, given_up, *rest = (host.create_domain() for _ in range(40))
    host.add_disk(ejecting, "xvdc")
    pending = ctx._pump.feeds.pending
    with host.down():
        lost(ctx)
        for domid in rest[:20]:
            ctx.evenable_domain_death(domid)
        last = [ctx.evenable_domain_death(domid) for domid in (gone, off, ejecting, given_up, *rest[20:])]
        ctx.evenable_disk_eject(ejecting, "xvdc")
        every = len(pending)
    back(ctx)
    left = {len(pending)}
    turn(ctx, lambda: left.add(len(pending)) or len(pending) < every - 5)
    with host.down():
        lost(ctx)
    back(ctx)
    turn(ctx, lambda: left.add(len(pending)) or len(pending) < every - 15)
    host.destroy_domain(gone)
    host.shutdown_domain(off, 3)
    host.eject_disk(ejecting, "xvdc")
    last[3].disable()
    host.destroy_domain(given_up)
    turn(ctx, lambda: left.add(len(pending)) or not pending)
    assert len(left) > 10, "all at once"
    events = [event for event in world.drained(ctx) if not isinstance(event, Resynced)]
    assert sorted((type(event).__name__, event.domid) for event in events) == [
        ("DiskEject", ejecting),
        ("DomainDeath", gone),
        ("DomainShutdown", off),
    ]
    for domid in rest:
        host.destroy_domain(domid)
    assert sorted(event.domid for event in world.drained(ctx)) == sorted(rest)


def test_what_became_of_the_domains_is_reported_turn_by_turn_and_before_the_next_loss(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery, "REPORT_SECONDS", 0.0)
    monkeypatch.setattr(arrivals, "_SLICE", 0.0)
    ctx = world.open(recover=True)
    host = world.host
    domids = [host.create_domain() for _ in range(60)]
    for domid in domids:
        ctx.evenable_domain_death(domid)
    world.barrier(ctx)

    def known() -> int:
        return ctx.metrics().events[gxl.EventType.DOMAIN_DEATH] - 1  # the barrier's

    def amid() -> tuple[int, int]:
        ctx.event_wait(domid=domids[5])
        before = known()
        with host.down():
            lost(ctx)
            return before, known()

    waiting = gevent.spawn(amid)
    gevent.sleep(0)
    with host.down():
        lost(ctx)
        for domid in domids:
            host.destroy_domain(domid)
    before, after = waiting.get(timeout=10)
    assert 5 < before < 30, "all at once"
    assert after == 60
    back(ctx)
    first, *events = iter(ctx.event_check, None)
    assert isinstance(first, Resynced)
    assert [event.domid for event in events] == domids[:5] + domids[6:]


def failing(ctx: gxl.Context, monkeypatch: pytest.MonkeyPatch) -> list[gxl.LibxlError]:
    """What the next looks at domains are to raise. The host can't be told so in the loop's callbacks, if patched."""
    due: list[gxl.LibxlError] = []
    kind = type(ctx._pump.engine)
    for name in ("domain_info", "list_domain"):
        look = getattr(kind, name)

        def fail_or_look(engine: Any, *domid: int, look: Callable[..., Any] = look) -> Any:
            if due:
                raise due.pop(0)
            return look(engine, *domid)

        monkeypatch.setattr(kind, name, fail_or_look)
    return due


@pytest.mark.parametrize("times", [1, 2])
def test_an_evgen_of_an_outage_that_is_refused_twice_is_told_and_the_others_are_enabled(
    world: World, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    ctx = world.open(recover=True)
    refused, taken = (world.host.create_domain() for _ in range(2))
    due = failing(ctx, monkeypatch)
    enable = recovery.Recovery._enable_pending

    def enable_with_a_failure(self: recovery.Recovery, steps: Iterator[None]) -> None:
        if self._pump.counters.recoveries == times:
            monkeypatch.setattr(recovery.Recovery, "_enable_pending", enable)
        due.append(Fail())
        enable(self, steps)

    monkeypatch.setattr(recovery.Recovery, "_enable_pending", enable_with_a_failure)
    waiting = [gevent.spawn(ctx.event_wait, gxl.mask(kind), domid=refused) for kind in (DomainShutdown, DomainDeath)]
    with world.host.down():
        lost(ctx)
        evgen = ctx.evenable_domain_death(refused)
        ctx.evenable_domain_death(taken)
    until(lambda: ctx.metrics().recoveries == 2 and not ctx._pump.feeds.pending, 10)
    assert ("disabled" in repr(evgen)) == (times == 2)
    world.host.destroy_domain(taken)
    assert ctx.event_wait(gxl.mask(DomainDeath), domid=taken, timeout=10)
    if times == 2:
        for waiter in waiting:
            with pytest.raises(gxl.Disaster, match="can't be enabled"):
                waiter.get(timeout=10)
    else:
        world.host.shutdown_domain(refused, 0)
        assert waiting[0].get(timeout=10).domid == refused
        world.host.destroy_domain(refused)
        assert waiting[1].get(timeout=10).domid == refused


def test_a_loss_while_the_truth_is_told_begins_anew_and_tells_the_rest(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    ctx = world.open(recover=True)
    domids = [world.host.create_domain() for _ in range(3)]
    for domid in domids:
        ctx.evenable_domain_death(domid)
    due = failing(ctx, monkeypatch)
    report = recovery.Recovery._report

    def report_with_a_failure(self: recovery.Recovery, steps: Iterator[None]) -> None:
        monkeypatch.setattr(recovery.Recovery, "_report", report)
        due.append(Fail())
        report(self, steps)

    monkeypatch.setattr(recovery.Recovery, "_report", report_with_a_failure)
    with world.host.down():
        lost(ctx)
        for domid in domids:
            world.host.destroy_domain(domid)
    died: list[int] = []
    while len(died) < 3:
        event = ctx.event_wait(timeout=10)
        died += [event.domid] if isinstance(event, DomainDeath) else []
    assert died == domids
    assert ctx.metrics().recoveries == 2


def test_whoever_follows_all_domains_is_told_that_some_may_have_come_and_gone(world: World) -> None:
    ctx = world.open(recover=True)
    with ctx.follow_domains():
        with world.host.down():
            lost(ctx)
            world.host.destroy_domain(world.host.create_domain())
        back(ctx)
        resynced = ctx.event_wait(timeout=10)
    assert isinstance(resynced, Resynced)
    assert resynced.missed == (gxl.EventType.DOMAIN_SHUTDOWN, gxl.EventType.DOMAIN_DEATH)


def test_a_name_that_had_not_come_before_the_loss_is_asked_for_again(world: World) -> None:
    ctx = world.open(recover=True)
    with world.unnamed(ctx) as domid:
        ctx.evenable_domain_death(domid)
        world.host.drop_connections()
    turn(ctx, lambda: ctx.metrics().recoveries and all(feed.named for feed in ctx._pump.feeds.all()))
    world.host.destroy_domain(domid)
    assert ctx.event_wait(gxl.mask(DomainDeath), domid=domid, timeout=10).name == "slow"


def test_what_was_known_of_a_domain_before_the_loss_is_not_taken_for_what_it_is_after(world: World) -> None:
    ctx = world.open(recover=True)
    other, domid, gone = (world.host.create_domain() for _ in range(3))
    world.host.add_disk(domid, "xvdc")
    ctx.evenable_domain_death(other)
    ctx.evenable_disk_eject(domid, "xvdc")
    found = [ctx.engine.domain_info(each) for each in (gone, domid)]
    with world.host.down():
        lost(ctx)
        # As follow_domains does, if xenstored dies between its look at the domains and the enabling.
        for info in found:
            ctx._pump.feeds.watch_domain(info.domid, 7, ctx._pump.accept, present=True, info=info)
        world.host.destroy_domain(gone)
        world.host.destroy_domain(domid)
        world.host.create_domain(domid=domid)
    assert isinstance(ctx.event_wait(timeout=10), Resynced)
    deaths = [ctx.event_wait(user=7, timeout=10) for _ in found]
    assert [(type(death), death.domuuid) for death in deaths] == [(DomainDeath, info.uuid) for info in found]
    assert ctx.metrics().feeds == 1, "the other life is nobody's"


def test_whoever_asks_for_names_in_the_moment_of_the_loss_is_told_so(world: World) -> None:
    ctx = world.open(recover=True)
    world.host.create_domain("web1")
    with world.host.stalled():
        calls: list[Callable[[], object]] = [ctx.list_domain, partial(ctx.domid_of, "web1")]
        asking = [gevent.spawn(call) for call in calls]
        gevent.sleep(0)
        world.host.drop_connections()
        for asker in asking:
            with pytest.raises(gxl.Outage):
                asker.get(timeout=10)
    back(ctx)
    assert ctx.domid_of("web1")


def test_libxls_context_is_abandoned_at_once_if_xenstored_hangs_and_events_may_be_missing_since_then(
    world: World,
) -> None:
    ctx = world.open(recover=True)
    domid = world.host.create_domain()
    ctx.evenable_domain_death(domid)
    former, heard = ctx._pump.reign, time.time() - 40
    ctx._pump._store_lost("xenstored has not answered for 30 s", heard, True)
    assert former.over
    back(ctx)
    assert (ctx.metrics().abandoned, ctx.metrics().recoveries) == (1, 1)
    resynced = ctx.event_wait(timeout=10)
    assert isinstance(resynced, Resynced)
    assert resynced.since == heard
    world.host.destroy_domain(domid)
    assert isinstance(ctx.event_wait(timeout=10), DomainDeath)


def test_what_was_found_before_libxls_connection_ended_is_delivered(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrivals, "_SLICE", 0.0)
    monkeypatch.setattr("gxl.engines.embedded.store._AT_ONCE", 100)  # libxl finds all in one call
    ctx = world.open(recover=True)
    domids = [world.host.create_domain() for _ in range(30)]
    for domid in domids:
        world.host.add_disk(domid, "xvdc")
        ctx.evenable_disk_eject(domid, "xvdc")
    world.barrier(ctx)
    waiting = gevent.spawn(ctx.event_wait, domid=domids[0])
    waiting.link(lambda _: ctx._pump._hung_up(ctx._pump.reign))
    gevent.sleep(0)
    binding: Any = ctx._pump.binding
    binding._watcher.stop()  # in a patched process the loop runs while the host is asked
    for domid in domids:
        world.host.eject_disk(domid, "xvdc")
    binding._watcher.start(binding._fds.dispatch)
    waiting.get(timeout=10)
    lost(ctx)
    assert sorted(event.domid for event in iter(ctx.event_check, None)) == domids[1:]
    back(ctx)


STAGES: dict[str, Callable[[gxl.Context], object]] = {
    "the outage": lambda ctx: ctx.outage,
    "the enabling": lambda ctx: ctx._pump.recovery is not None and ctx._pump.recovery._next,
    "the reporting": lambda ctx: ctx.queued > 1,
    "the rest": lambda ctx: ctx.outage is None and 0 < len(ctx._pump.feeds.pending) < 10,
}


@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)
def test_closing_on_the_way_back_ends_at_once_and_waiters_are_told(
    world: World, sealed: Ledger, stage: Callable[[gxl.Context], object]
) -> None:
    ctx = world.open(recover=True)
    domids = [world.host.create_domain() for _ in range(20)]
    for domid in domids:
        ctx.evenable_domain_death(domid)
    waiter = gevent.spawn(ctx.event_wait, domid=32001)
    with world.host.down():
        lost(ctx)
        for domid in domids:
            world.host.destroy_domain(domid)
            ctx.evenable_domain_death(domid)
        if stage is STAGES["the outage"]:
            _closes_at_once(ctx, waiter)
            return
    turn(ctx, lambda: stage(ctx))
    _closes_at_once(ctx, waiter)


def _closes_at_once(ctx: gxl.Context, waiter: gevent.Greenlet[..., gxl.Event]) -> None:
    began = time.monotonic()
    ctx.close()
    assert time.monotonic() - began < 1
    assert ctx.metrics().abandoned == 0
    with pytest.raises(gxl.ContextClosed):
        waiter.get(timeout=10)
