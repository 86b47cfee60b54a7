# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where engine and hub meet: what is taken over, what is freed, what is reported; against each engine."""

from __future__ import annotations

import asyncio
import gc
import itertools
import warnings
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import gevent
import pytest
from worlds import World, outcome, settle, until
from zope.interface.verify import verifyObject

import gxl
from gxl import arrivals, floods
from gxl.arrivals import Arrivals
from gxl.events import Disk, DiskEject
from gxl.interfaces import IEventSink, IHubBinding, ITurnBinding


def test_the_pump_provides_the_sink_that_hubs_report_to(world: World) -> None:
    assert verifyObject(IEventSink, world.open()._pump)


def test_the_binding_of_a_context_provides_its_interface(world: World) -> None:
    assert verifyObject(IHubBinding, world.open()._pump.binding)


def test_an_engine_with_hooks_or_evgens_of_its_own_is_refused_and_stays_usable(world: World) -> None:
    engine = world.engine()
    domid = world.host.create_domain()
    evgen = engine.evenable_domain_death(domid)
    with pytest.raises(gxl.MisuseError):
        gxl.Context(engine=engine, hub="gevent")
    engine.evdisable_domain_death(evgen)
    engine.ctx_free()


@pytest.mark.usefixtures("leaves_nothing")
def test_a_context_that_can_not_reach_xenstored_leaves_nothing_open(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = world.engine()

    def refuse(self: object) -> Any:
        raise ConnectionRefusedError(111, "no xenstored")

    with monkeypatch.context() as patched:
        patched.setattr(type(engine), "xenstore_connect", refuse)
        with pytest.raises(gxl.EngineUnavailable, match="no xenstored"):
            gxl.Context(engine=engine, hub="gevent")
    with pytest.raises(gxl.MisuseError):
        engine.list_domain()


def test_a_hub_that_can_not_be_had_leaves_the_engine_alone(world: World) -> None:
    engine = world.engine()
    with pytest.raises(gxl.HubUnavailable, match="no-such-loop"):
        gxl.Context(engine=engine, hub="no-such-loop")
    engine.ctx_free()


def test_an_unknown_engine_is_named(world: World) -> None:
    with pytest.raises(gxl.GxlError, match="no-such-engine"):
        gxl.Context(engine="no-such-engine", hub="gevent")


def test_what_an_engine_raises_in_the_loop_goes_to_the_hubs_error_handler(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    ctx = world.open()
    reported: list[Any] = []
    monkeypatch.setattr(gevent.get_hub(), "handle_error", lambda context, kind, value, tb: reported.append(value))

    def broken(*args: object) -> None:
        raise LookupError("inside the engine")

    domid = world.host.create_domain()
    ctx.evenable_domain_death(domid)
    world.barrier(ctx)
    with monkeypatch.context() as patched:
        patched.setattr(type(ctx._pump.engine), "osevent_occurred_fd", broken)
        world.host.destroy_domain(domid)
        while not reported:
            gevent.sleep(0.001)
    assert isinstance(reported[0], LookupError)
    # The fd is still watched, and still readable: nothing was lost.
    assert isinstance(ctx.event_wait(timeout=5), gxl.DomainDeath)


def test_close_waits_cooperatively_for_an_operation_that_is_pending(world: World) -> None:
    ctx = world.open()
    domid = world.host.create_domain()
    # A paused guest does not answer the request: libxl gives it a minute.
    world.host.pause_domain(domid)
    how = gxl.AsyncHow(for_event=1)
    ctx.engine.domain_shutdown(domid, how)
    closing = gevent.spawn(ctx.close)
    settle()
    assert not closing.ready()
    ctx.engine.ao_abort(how)
    assert outcome(closing) is None
    assert not ctx._pump.abandoned


def test_close_abandons_what_does_not_end_in_time_and_says_so(world: World) -> None:
    ctx = world.open()
    domid = world.host.create_domain()
    world.host.pause_domain(domid)
    how = gxl.AsyncHow(for_event=1)
    ctx.engine.domain_shutdown(domid, how)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ctx.close(timeout=0.02)
    assert [entry.category for entry in caught] == [ResourceWarning]
    assert "pending" in str(caught[0].message)
    assert ctx._pump.abandoned
    # libxl goes on using what it was given: that must not be collected.
    pump = weakref.ref(ctx._pump)
    world.contexts.remove(ctx)
    del ctx
    gc.collect()
    assert pump() is not None


def test_a_host_that_can_not_list_its_domains_is_a_disaster_as_it_is_for_libxl(world: World) -> None:
    ctx = world.open()
    with ctx.follow_domains():
        world.barrier(ctx)
        world.host.fail_next("getdomaininfolist", 5)
        world.host.create_domain()
        with pytest.raises(gxl.Disaster):
            ctx.event_wait(gxl.mask(gxl.DiskEject), timeout=5)


def test_a_burst_is_delivered_over_several_turns_of_the_loop_in_order(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    ctx = world.open()
    seconds = itertools.count()
    monkeypatch.setattr("gxl.arrivals.perf_counter", lambda: next(seconds))  # every delivery takes its time
    order: list[object] = []
    for number in range(100):
        ctx._pump.arrived(partial(order.append, number))
    gevent.spawn(order.append, "somebody else")
    until(lambda: 99 in order)
    assert order.index("somebody else") < 50
    order.remove("somebody else")
    assert order == list(range(100))


@pytest.mark.parametrize("long", [True, False])
def test_after_a_long_call_a_few_events_are_delivered_and_the_loop_has_a_turn_before_the_others(
    world: World, monkeypatch: pytest.MonkeyPatch, long: bool
) -> None:
    monkeypatch.setattr(arrivals, "_LONG", 0.0 if long else 1e9)
    monkeypatch.setattr(arrivals, "_SLICE", 1e9)
    ctx = world.open()
    domids = [world.host.create_domain() for _ in range(20)]
    for domid in domids:
        ctx.evenable_domain_death(domid)
    ctx.list_domain()
    inside: list[int] = []
    turn = Arrivals.turn

    def turning(self: Arrivals, *args: Any) -> None:
        before = ctx.queued
        turn(self, *args)
        inside.append(ctx.queued - before)

    monkeypatch.setattr(Arrivals, "turn", turning)
    with world.host.quiet():
        for domid in domids:
            world.host.shutdown_domain(domid)
    until(lambda: ctx.queued == 20)
    assert max(inside) == (8 if long else 20)


def test_after_a_long_call_a_task_that_has_slept_goes_on_before_all_is_delivered(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """asyncio finds in one turn that a timer is due, and goes on in the next with who slept."""
    monkeypatch.setattr(arrivals, "_LONG", 0.0)
    monkeypatch.setattr(arrivals, "_SLICE", 1e9)
    queued: list[int] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        turn = Arrivals.turn

        def turning(self: Arrivals, *args: Any) -> None:
            turn(self, *args)
            if ctx.queued and not queued:
                loop.call_soon(loop.call_soon, lambda: queued.append(ctx.queued))

        async with gxl.Context(world.engine(), hub="asyncio") as ctx:
            domids = [world.host.create_domain() for _ in range(20)]
            for domid in domids:
                ctx.evenable_domain_death(domid)
            await ctx.alist_domain()
            monkeypatch.setattr(Arrivals, "turn", turning)
            with world.host.quiet():
                for domid in domids:
                    world.host.shutdown_domain(domid)
            while ctx.queued < 20:
                await asyncio.sleep(0)

    asyncio.run(main())
    assert queued == [8]


def test_a_short_call_does_not_take_the_turns_that_others_are_owed_after_a_long_one(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrivals, "_SLICE", 1e9)
    ctx = world.open()
    order: list[int] = []

    def call() -> None:
        for number in range(40):
            ctx._pump.arrived(partial(order.append, number))

    monkeypatch.setattr(arrivals, "_LONG", 0.0)
    ctx._pump._arrivals.turn(call)
    monkeypatch.setattr(arrivals, "_LONG", 1e9)
    ctx._pump._arrivals.turn(lambda: None)
    assert len(order) == 16
    # Once the application has taken what was there, nobody is owed anything.
    ctx._pump.drain()
    until(lambda: not ctx._pump._arrivals._scheduled)
    order.clear()
    ctx._pump._arrivals.turn(call)
    assert len(order) == 40


def in_each_turn(ctx: gxl.Context, count: int, call: Callable[[], object]) -> None:
    """Have the loop make this call of an engine's, a long one, in each of its next `count` turns."""
    binding, calls = ITurnBinding(ctx._pump.binding), iter(range(count))
    done: list[object] = []

    def turn() -> None:
        if next(calls, None) is None:
            done.append(None)
        else:
            binding.call_next_turn(turn)
            ctx._pump._arrivals.turn(call)

    turn()
    until(lambda: done)


def test_what_long_calls_find_does_not_pile_up_though_each_turn_of_the_loop_has_one(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrivals, "_LONG", 0.0)
    monkeypatch.setattr(arrivals, "_SLICE", 1e9)
    ctx = world.open()
    numbers = itertools.count()
    order: list[int] = []
    waiting: list[int] = []

    def call() -> None:
        for _ in range(20):
            ctx._pump.arrived(partial(order.append, next(numbers)))
        waiting.append(20 * (len(waiting) + 1) - len(order))

    in_each_turn(ctx, 12, call)
    until(lambda: len(order) == 240)
    assert order == list(range(240))
    # Three turns' worth: that of the first long call, and two for others.
    assert max(waiting) <= 60


def test_a_flood_that_takes_a_long_call_in_each_turn_is_cut_off_after_a_few(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrivals, "_LONG", 0.0)
    monkeypatch.setattr(arrivals, "_SLICE", 1e9)
    monkeypatch.setattr(floods, "EJECTS_AT_ONCE", 100)
    monkeypatch.setattr(floods, "EJECTS_PER_SECOND", 0)
    ctx = world.open()
    domid = world.host.create_domain()
    world.host.add_disk(domid, "xvda")
    evgen = ctx.evenable_disk_eject(domid, "xvda")
    feed = evgen._feed
    assert feed is not None
    world.barrier(ctx)
    until(lambda: not ctx._pump._arrivals._scheduled)
    calls: list[bool] = []

    def call() -> None:
        calls.append(evgen.flooded)
        for _ in range(20):
            ctx._pump.arrived(DiskEject(domid, "xvda", Disk(), for_user=feed.token))

    in_each_turn(ctx, 20, call)
    assert calls.index(True) <= 8
