# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a Context counts, against what was made to happen; on each engine."""

from __future__ import annotations

import dataclasses
import logging

import gevent
import prometheus_client
import pytest
from prometheus_client.parser import text_string_to_metric_families
from worlds import World, outcome, settle, until

import gxl
from gxl import EventType, Metrics, metrics, prometheus


def test_a_new_context_has_counted_nothing(world: World) -> None:
    found = world.open().metrics()
    assert found.alive
    assert (found.events, found.evgens, found.feeds, found.operations) == ({}, 0, 0, 0)
    assert (found.queue_depth, found.queue_high_water, found.events_lost) == (0, 0, 0)
    assert (found.disasters, found.recoveries, found.abandoned) == (0, 0, 0)


def test_events_are_counted_by_type_and_once_for_each_who_gets_them(world: World) -> None:
    ctx = world.open()
    domid = world.host.create_domain("web1")
    with ctx.evenable_domain_death(domid), ctx.watch(domid) as watcher:
        world.host.shutdown_domain(domid, 3)
        next(watcher)
        world.host.destroy_domain(domid)
        next(watcher)
        assert ctx.metrics().events == {EventType.DOMAIN_SHUTDOWN: 2, EventType.DOMAIN_DEATH: 2}


def test_the_queue_has_a_depth_and_a_high_water_mark(world: World) -> None:
    ctx = world.open()
    for _ in range(3):
        ctx.evenable_domain_death(999)
    assert (ctx.metrics().queue_depth, ctx.metrics().queue_high_water) == (3, 3)
    ctx.event_wait()
    ctx.event_wait()
    ctx.evenable_domain_death(999)
    assert (ctx.metrics().queue_depth, ctx.metrics().queue_high_water) == (2, 3)


def test_a_queue_that_nobody_empties_is_warned_of_once_at_each_doubling(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(metrics, "QUEUE_WARNING", 5)
    ctx = world.open()
    with caplog.at_level(logging.WARNING, "gxl"):
        for _ in range(12):
            ctx.evenable_domain_death(999)
        until(lambda: len(caplog.records) == 2)
        settle()
    assert [record.args for record in caplog.records if record.name == "gxl"] == [(5,), (10,)]
    assert "no bound" in caplog.text


def test_what_bounded_sinks_drop_is_counted(world: World) -> None:
    ctx = world.open()
    domids = [world.host.create_domain() for _ in range(2)]
    with ctx.watch(*domids, maxlen=1):
        for domid in domids:
            world.host.destroy_domain(domid)
        until(lambda: ctx.metrics().events_lost == 1)


def test_evgens_share_feeds_and_both_are_counted_while_they_live(world: World) -> None:
    ctx = world.open()
    first, second = world.host.create_domain(), world.host.create_domain()
    evgens = [ctx.evenable_domain_death(domid) for domid in (first, first, second)]
    assert (ctx.metrics().evgens, ctx.metrics().feeds) == (3, 2)
    for evgen in evgens:
        evgen.disable()
    assert (ctx.metrics().evgens, ctx.metrics().feeds) == (0, 0)


def test_operations_are_counted_while_they_are_under_way(world: World) -> None:
    ctx = world.open()
    domid = world.host.create_domain()
    operation = ctx.domain_destroy(domid, wait=False)
    assert ctx.metrics().operations == 1
    operation.wait(10)
    assert ctx.metrics().operations == 0


def test_registrations_come_and_go_and_none_is_left_at_the_end(world: World) -> None:
    ctx = world.open()
    before = ctx.metrics()
    assert before.fds >= 1
    domid = world.host.create_domain()
    world.host.pause_domain(domid)
    operation = ctx.domain_shutdown(domid, wait=False)  # it waits for the guest, a minute at most
    until(lambda: ctx.metrics().timeouts == before.timeouts + 1)
    operation.abort()
    with pytest.raises(gxl.LibxlError):
        operation.wait(10)
    # The real library keeps its timeout until that has occurred, now that nobody wants it.
    until(lambda: ctx.metrics().timeouts == before.timeouts)
    ctx.close()
    assert (ctx.metrics().fds, ctx.metrics().timeouts) == (0, 0)


def test_a_disaster_is_counted_and_ends_what_is_alive(world: World) -> None:
    ctx = world.open()
    waiting = gevent.spawn(ctx.event_wait)
    settle()
    world.host.drop_connections()
    assert isinstance(outcome(waiting), gxl.Disaster)
    found = ctx.metrics()
    assert (found.alive, found.disasters) == (False, 1)


def test_the_pump_says_how_long_it_held_the_loop(world: World) -> None:
    ctx = world.open()
    domid = world.host.create_domain()
    with ctx.watch(domid) as watcher:
        world.host.destroy_domain(domid)
        next(watcher)
    found = ctx.metrics()
    assert found.pump_turns >= 1
    assert 0 < found.pump_longest_turn <= found.pump_seconds
    assert found.pump_longest_lag > 0


def test_a_snapshot_is_of_one_moment_and_can_not_be_changed(world: World) -> None:
    ctx = world.open()
    found = ctx.metrics()
    ctx.evenable_domain_death(999)
    assert found.queue_depth == 0
    assert not found.events
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.queue_depth = 7  # type: ignore[misc]  # that it can't be changed is what is tested
    with pytest.raises(TypeError):
        found.events[EventType.DOMAIN_DEATH] = 7  # type: ignore[index]  # that it can't be changed is what is tested


def test_a_closed_context_still_tells(world: World) -> None:
    ctx = world.open()
    ctx.evenable_domain_death(999)
    ctx.close()
    assert (ctx.metrics().alive, ctx.metrics().events) == (False, {EventType.DOMAIN_DEATH: 1})


def test_prometheus_gets_every_metric_there_is(world: World) -> None:
    ctx = world.open()
    ctx.evenable_domain_death(999)
    families = {family.name: family for family in text_string_to_metric_families(prometheus.render(ctx).decode())}
    (sample,) = families["gxl_events"].samples
    assert (sample.name, sample.labels, sample.value) == ("gxl_events_total", {"type": "domain_death"}, 1)
    assert families["gxl_alive"].samples[0].value == 1
    assert families["gxl_queue_depth"].samples[0].value == 1
    shown = sum(len(family.samples) for family in families.values())
    assert shown == len(dataclasses.fields(Metrics))


def test_an_application_registers_the_collector_where_its_own_metrics_are(world: World) -> None:
    registry = prometheus_client.CollectorRegistry()
    registry.register(prometheus.Collector(world.open()))
    assert registry.get_sample_value("gxl_registrations", {"kind": "fd"}) >= 1  # type: ignore[operator]  # None fails the test, too
