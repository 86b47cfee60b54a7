# SPDX-License-Identifier: LGPL-2.1-or-later
"""Evgens at Context level: sharing, one life, present state, fan-out; against each engine, with a loop and without."""

from __future__ import annotations

from typing import Any

import pytest
from worlds import World

import gxl
from gxl import DiskEject, DomainDeath, DomainShutdown, ShutdownReason
from gxl.sidechannel import SideChannel

# What an evgen reports must not depend on who owns the loop.
HUBS = ("gevent", "poll")


def test_the_present_state_is_reported_at_once(world: World) -> None:
    ctx = world.open()
    off, dying = world.host.create_domain(), world.host.create_domain()
    world.host.shutdown_domain(off, 3)
    world.host.mark_dying(dying)
    ctx.evenable_domain_death(off, user=1)
    event = ctx.event_check()
    assert isinstance(event, DomainShutdown)
    assert event.shutdown_reason is ShutdownReason.CRASH
    ctx.evenable_domain_death(dying, user=2)
    assert isinstance(ctx.event_check(), DomainDeath)
    ctx.evenable_domain_death(30000, user=3)
    gone = ctx.event_check()
    assert isinstance(gone, DomainDeath)
    assert (gone.domid, gone.for_user, gone.domuuid) == (30000, 3, None)
    assert world.drained(ctx) == []


def test_the_present_state_is_reported_to_a_second_evgen_too(world: World) -> None:
    ctx = world.open()
    domid = world.host.create_domain()
    ctx.evenable_domain_death(domid, user=1)
    world.host.shutdown_domain(domid, 1)
    assert [event.for_user for event in world.drained(ctx, 1)] == [1]
    ctx.evenable_domain_death(domid, user=2)
    assert [event.for_user for event in world.drained(ctx)] == [2]
    world.host.destroy_domain(domid)
    deaths = world.drained(ctx, 2)
    assert {event.for_user for event in deaths} == {1, 2}
    assert all(isinstance(event, DomainDeath) for event in deaths)
    assert world.drained(ctx) == []


def test_each_evgen_of_a_domain_reports_once_with_its_own_user_value(world: World) -> None:
    ctx = world.open()
    domid = world.host.create_domain()
    for user in (7, 7, 2**63):
        ctx.evenable_domain_death(domid, user=user)
    world.host.destroy_domain(domid)
    assert sorted(event.for_user for event in world.drained(ctx, 3)) == [7, 7, 2**63]
    assert world.drained(ctx) == []


def test_a_thousand_evgens_of_one_domain_cost_the_engine_one(world: World) -> None:
    ctx = world.open()
    domid = world.host.create_domain()
    evgens = [ctx.evenable_domain_death(domid, user=user) for user in range(1000)]
    assert len(ctx._pump.feeds.by_token) == 1
    for evgen in evgens[1:]:
        evgen.disable()
    world.host.destroy_domain(domid)
    assert [event.for_user for event in world.drained(ctx)] == [0]
    assert not ctx._pump.feeds.by_token


def test_a_disabled_evgen_is_silent_and_disable_is_idempotent(world: World) -> None:
    ctx = world.open()
    domid = world.host.create_domain()
    with ctx.evenable_domain_death(domid) as evgen:
        pass
    evgen.disable()
    ctx.evdisable_domain_death(evgen)
    world.host.destroy_domain(domid)
    assert world.drained(ctx) == []


def test_what_occurred_before_disable_is_still_returned(world: World) -> None:
    ctx = world.open()
    domid = world.host.create_domain()
    evgen = ctx.evenable_domain_death(domid, user=9)
    world.host.shutdown_domain(domid, 0)
    world.barrier(ctx)
    assert ctx.queued
    evgen.disable()
    assert [event.for_user for event in world.drained(ctx)] == [9]


def test_a_domain_that_is_destroyed_before_it_shuts_down_has_only_a_death(world: World) -> None:
    ctx = world.open()
    domid = world.host.create_domain()
    ctx.evenable_domain_death(domid)
    # libxl's first look at the domains, which enabling has caused, must not fall in between.
    world.barrier(ctx)
    with world.host.quiet():
        world.host.shutdown_domain(domid, 0)
        world.host.mark_dying(domid)
    assert [type(event) for event in world.drained(ctx)] == [DomainDeath]


def test_a_reused_domid_is_not_mistaken_for_the_domain_that_had_it(world: World) -> None:
    ctx = world.open()
    domid = world.host.create_domain("old")
    uuid = world.host.domain_info(domid).uuid
    ctx.evenable_domain_death(domid, user=1)
    world.barrier(ctx)
    with world.host.quiet():
        world.host.destroy_domain(domid)
        world.host.create_domain("new", domid)
        world.host.shutdown_domain(domid, 3)
    (event,) = world.drained(ctx, 1)
    assert isinstance(event, DomainDeath)
    assert (event.domuuid, event.name) == (uuid, "old")
    world.host.destroy_domain(domid)
    assert world.drained(ctx) == []


def test_a_new_domain_under_an_old_domid_tells_of_the_old_ones_death(world: World) -> None:
    ctx = world.open()
    domid = world.host.create_domain("old")
    ctx.evenable_domain_death(domid, user=1)
    world.barrier(ctx)
    with world.host.quiet():
        world.host.destroy_domain(domid)
        world.host.create_domain("new", domid)
    (event,) = world.drained(ctx, 1)
    assert isinstance(event, DomainDeath)
    assert event.name == "old"
    # Whoever watches the domid now watches the new one.
    ctx.evenable_domain_death(domid, user=2)
    world.barrier(ctx)
    world.host.destroy_domain(domid)
    (event,) = world.drained(ctx, 1)
    assert (event.for_user, event.name) == (2, "new")
    assert world.drained(ctx) == []


def test_enabling_on_a_reused_domid_ends_the_old_life_and_begins_the_new(world: World) -> None:
    ctx = world.open()
    domid = world.host.create_domain()
    ctx.evenable_domain_death(domid, user=1)
    world.barrier(ctx)
    world.host.destroy_domain(domid)
    world.host.create_domain(domid=domid)
    ctx.evenable_domain_death(domid, user=2)
    assert [event.for_user for event in world.drained(ctx)] == [1]
    world.host.shutdown_domain(domid, 0)
    (event,) = world.drained(ctx, 1)
    assert (type(event), event.for_user) == (DomainShutdown, 2)


def test_present_false_ignores_a_shutdown_until_the_domain_has_run_again(world: World) -> None:
    ctx = world.open()
    domid, other = world.host.create_domain(), world.host.create_domain()
    world.host.shutdown_domain(domid, 2)
    ctx.evenable_domain_death(domid, present=False)
    assert world.drained(ctx) == []
    # Every other domain's death makes libxl look at the suspended one again.
    world.host.destroy_domain(other)
    assert world.drained(ctx) == []
    world.host.release()
    assert world.drained(ctx) == []
    world.host.resume_domain(domid)
    world.host.shutdown_domain(domid, 2)
    (event,) = world.drained(ctx, 1)
    assert isinstance(event, DomainShutdown)
    world.host.destroy_domain(domid)
    assert [type(event) for event in world.drained(ctx, 1)] == [DomainDeath]
    assert world.drained(ctx) == []


def test_an_evgen_enabled_after_a_resume_reports_the_second_shutdown(world: World) -> None:
    ctx = world.open()
    domid = world.host.create_domain()
    ctx.evenable_domain_death(domid, user=1)
    world.host.shutdown_domain(domid, 2)
    assert [event.for_user for event in world.drained(ctx, 1)] == [1]
    world.host.resume_domain(domid)
    ctx.evenable_domain_death(domid, user=2)
    assert world.drained(ctx) == []
    world.host.shutdown_domain(domid, 3)
    (event,) = world.drained(ctx, 1)
    assert isinstance(event, DomainShutdown)
    assert (event.for_user, event.shutdown_reason) == (2, ShutdownReason.CRASH)
    world.host.destroy_domain(domid)
    assert sorted(event.for_user for event in world.drained(ctx, 2)) == [1, 2]


def test_a_reason_without_a_name_stays_a_number(world: World) -> None:
    ctx = world.open()
    domid = world.host.create_domain()
    ctx.evenable_domain_death(domid)
    world.host.shutdown_domain(domid, 99)
    (event,) = world.drained(ctx, 1)
    assert isinstance(event, DomainShutdown)
    assert event.shutdown_reason == 99


def test_every_evgen_on_a_disk_gets_each_eject_under_its_own_name(world: World) -> None:
    ctx = world.open()
    domid = world.host.create_domain("cd")
    world.host.add_disk(domid, "xvda")
    ctx.evenable_disk_eject(domid, "xvda", user=1)
    ctx.evenable_disk_eject(domid, "51712", user=2)
    world.barrier(ctx)
    for _ in range(2):
        world.host.eject_disk(domid, "xvda")
        events = world.drained(ctx, 2)
        assert [(event.for_user, event.vdev) for event in events if isinstance(event, DiskEject)] == [
            (1, "xvda"),
            (2, "51712"),
        ]
        assert events[0].domuuid == world.host.domain_info(domid).uuid
        assert isinstance(events[0], DiskEject)
        assert events[0].disk.vdev == "xvda"
    assert world.drained(ctx) == []


def test_the_ejects_of_two_disks_are_told_apart(world: World) -> None:
    ctx = world.open()
    domid = world.host.create_domain()
    for vdev in ("hdc", "hdd"):
        world.host.add_disk(domid, vdev)
    first = ctx.evenable_disk_eject(domid, "hdc", user=1)
    ctx.evenable_disk_eject(domid, "hdd", user=2)
    world.barrier(ctx)
    world.host.eject_disk(domid, "hdd")
    assert [event.for_user for event in world.drained(ctx, 1)] == [2]
    first.disable()
    world.host.eject_disk(domid, "hdc")
    assert world.drained(ctx) == []


def test_an_eject_by_the_domain_that_took_the_domid_is_not_reported(world: World) -> None:
    ctx = world.open()
    domid = world.host.create_domain()
    world.host.add_disk(domid, "hdc")
    ctx.evenable_disk_eject(domid, "hdc")
    world.barrier(ctx)
    world.host.destroy_domain(domid)
    world.host.create_domain(domid=domid)
    world.host.add_disk(domid, "hdc")
    world.host.eject_disk(domid, "hdc")
    assert world.drained(ctx) == []


def test_a_disk_is_watched_in_one_life_of_its_domain_and_not_in_the_next(world: World) -> None:
    ctx = world.open()
    domid = world.host.create_domain()
    world.host.add_disk(domid, "hdc")
    evgen = ctx.evenable_disk_eject(domid, "hdc", user=1)
    world.barrier(ctx)
    world.host.destroy_domain(domid)
    world.host.create_domain(domid=domid)
    world.host.add_disk(domid, "hdc")
    # The newcomer has been noticed: its ejects come when nothing has appeared for a while.
    world.barrier(ctx)
    world.host.eject_disk(domid, "hdc")
    assert world.drained(ctx) == []
    assert "disabled" in repr(evgen)
    ctx.evenable_disk_eject(domid, "hdc", user=2)
    world.host.eject_disk(domid, "hdc")
    assert [event.for_user for event in world.drained(ctx, 1)] == [2]


def test_whose_an_event_is_costs_no_hypercall_while_no_domain_appears(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    ctx = world.open()
    domid = world.host.create_domain()
    world.host.add_disk(domid, "hdc")
    ctx.evenable_disk_eject(domid, "hdc")
    ctx.evenable_domain_death(domid)
    world.barrier(ctx)
    asked: list[int] = []
    engine = type(ctx._pump.engine)
    ask = engine.domain_info
    monkeypatch.setattr(engine, "domain_info", lambda self, domid: (asked.append(domid), ask(self, domid))[1])
    world.host.eject_disk(domid, "hdc")
    world.host.shutdown_domain(domid, 1)
    assert {type(ctx.event_wait(timeout=10)) for _ in range(2)} == {DiskEject, DomainShutdown}
    assert asked == []
    # As if a domain had appeared, and nobody had looked yet whose domids they are now.
    monkeypatch.setattr(SideChannel, "catch_up", lambda self: False)
    world.host.eject_disk(domid, "hdc")
    assert isinstance(ctx.event_wait(timeout=10), DiskEject)
    assert asked == [domid]


def test_a_disk_that_does_not_exist_is_accepted(world: World) -> None:
    ctx = world.open()
    domid = world.host.create_domain()
    ctx.evenable_disk_eject(domid, "xvdz")
    ctx.evenable_disk_eject(20000, "xvda")
    assert world.drained(ctx) == []


def test_a_failing_hypercall_is_an_error_and_changes_nothing(world: World) -> None:
    ctx = world.open()
    domid = world.host.create_domain()
    world.barrier(ctx)
    world.host.fail_next("getdomaininfolist", 5)
    with pytest.raises(gxl.LibxlError):
        ctx.evenable_domain_death(domid)
    assert not ctx._pump.feeds.by_token
    ctx.evenable_domain_death(domid)
    world.host.destroy_domain(domid)
    assert [type(event) for event in world.drained(ctx, 1)] == [DomainDeath]


def test_following_does_not_take_one_that_has_died_since_somebody_looked_for_another_life(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    ctx = world.open()
    domid = world.host.create_domain()
    with ctx.follow_domains() as following:
        present = ctx.engine.list_domain()
        monkeypatch.setattr(ctx._pump.side, "_on_introduced", lambda: None)
        world.host.destroy_domain(domid)
        assert [event.domid for event in world.drained(ctx)] == [domid]
        following.look(present)
        assert world.drained(ctx) == []


def test_following_watches_each_domain_once_though_another_appears_while_it_is_enabled(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    ctx = world.open()
    # Nobody else is to look: in a patched process the loop runs while the host makes a domain.
    monkeypatch.setattr(ctx._pump.side, "_on_introduced", lambda: None)
    with ctx.follow_domains() as following:
        domids = [world.host.create_domain()]
        watch = ctx._pump.feeds.watch_domain

        def meanwhile(*arguments: Any, **how: Any) -> Any:
            monkeypatch.setattr(ctx._pump.feeds, "watch_domain", watch)
            domids.append(world.host.create_domain())
            following.look(ctx.engine.list_domain())
            return watch(*arguments, **how)

        monkeypatch.setattr(ctx._pump.feeds, "watch_domain", meanwhile)
        following.look(ctx.engine.list_domain())
        assert ctx.metrics().evgens == 2
        for domid in domids:
            world.host.destroy_domain(domid)
        assert sorted(event.domid for event in world.drained(ctx) if event.domid in domids) == domids


def test_following_reports_every_domain_those_that_appear_later_too(world: World) -> None:
    ctx = world.open()
    early = world.host.create_domain("early")

    def named(count: int) -> list[tuple[str | None, int, int]]:
        """The next events, but for those of the barrier's own domains."""
        found: list[tuple[str | None, int, int]] = []
        while len(found) < count:
            event = ctx.event_wait(timeout=5)
            if event.name in ("early", "late", "again"):
                found.append((event.name, event.domid, event.for_user))
        return sorted(found, key=str)

    with ctx.follow_domains(user=4):
        world.barrier(ctx)
        late = world.host.create_domain("late")
        world.barrier(ctx)
        world.host.destroy_domain(late)
        world.host.shutdown_domain(early, 1)
        assert named(2) == [("early", early, 4), ("late", late, 4)]
        again = world.host.create_domain("again", late)
        world.barrier(ctx)
        world.host.destroy_domain(again)
        assert named(1) == [("again", again, 4)]
    world.host.destroy_domain(early)
    assert not [event for event in world.drained(ctx) if event.domid == early]


def test_an_evgen_can_be_disabled_whose_death_has_arrived_but_is_not_delivered(world: World) -> None:
    # As amid a storm, whose events are delivered a slice at a time. disable() delivers them first.
    ctx = world.open()
    domid = world.host.create_domain()
    evgen = ctx.evenable_domain_death(domid)
    assert evgen._feed is not None
    ctx._pump.arrived(DomainDeath(domid, for_user=evgen._feed.token))
    evgen.disable()
    assert isinstance(ctx.event_check(), DomainDeath)
