# SPDX-License-Identifier: LGPL-2.1-or-later
"""A Context that outlives its xenstored: what it reports, keeps and lets go of; against each engine, on each hub."""

from __future__ import annotations

import os
import socket
import time
from typing import Any

import pytest
from outages import back, lost, soon, turn
from worlds import World

import gxl
from gxl import DiskEject, DomainDeath, DomainShutdown, OperationComplete, Resynced, ShutdownReason, recovery
from gxl.interfaces import AsyncHow

HUBS = ("gevent", "poll")
pytestmark = pytest.mark.usefixtures(soon.__name__)


def after(world: World, ctx: gxl.Context) -> list[gxl.Event]:
    """Whatever is queued once all has been heard: without the Resynced at the front."""
    first, *events = world.drained(ctx)
    assert isinstance(first, Resynced)
    return events


def kinds(events: list[gxl.Event]) -> list[tuple[type[gxl.Event], int, int]]:
    return [(type(event), event.domid, event.for_user) for event in events]


def test_an_engine_that_was_given_as_an_object_can_not_be_opened_anew(world: World) -> None:
    engine = world.engine()
    with pytest.raises(ValueError, match="recover=True needs an engine that can be opened anew"):
        gxl.Context(engine=engine, hub=world.hub, recover=True)
    engine.ctx_free()


@pytest.mark.usefixtures("leaves_nothing")
def test_what_became_of_the_domains_is_reported_once_after_one_resynced(world: World) -> None:
    ctx = world.open(recover=True)
    host = world.host
    gone, off, both, well, before = (host.create_domain() for _ in range(5))
    for user, domid in enumerate((gone, off, both, well, before)):
        ctx.evenable_domain_death(domid, user=user)
    host.shutdown_domain(before, 1)
    assert kinds([ctx.event_wait(timeout=10)]) == [(DomainShutdown, before, 4)]
    began = time.time()
    with host.down():
        lost(ctx)
        host.destroy_domain(gone)
        host.shutdown_domain(off, 3)
        host.shutdown_domain(both, 0)
        host.destroy_domain(both)
    back(ctx)
    resynced, *events = world.drained(ctx)
    assert isinstance(resynced, Resynced)
    assert began <= resynced.since <= (resynced.time or 0)
    assert resynced.missed == (gxl.EventType.DOMAIN_SHUTDOWN,)
    assert kinds(events) == [(DomainDeath, gone, 0), (DomainShutdown, off, 1), (DomainDeath, both, 2)]
    assert next(event for event in events if isinstance(event, DomainShutdown)).shutdown_reason is ShutdownReason.CRASH
    assert [event.seq for event in events] == sorted(event.seq or 0 for event in events)
    for domid in (off, well, before):
        host.destroy_domain(domid)
    assert kinds(world.drained(ctx, 3)) == [(DomainDeath, off, 1), (DomainDeath, well, 3), (DomainDeath, before, 4)]
    ctx.close()


def test_a_domid_that_another_life_has_taken_meanwhile_means_death(world: World) -> None:
    ctx = world.open(recover=True)
    old = world.host.create_domain(domid=77)
    ctx.evenable_domain_death(old, user=1)
    with world.host.down():
        lost(ctx)
        world.host.destroy_domain(old)
        world.host.create_domain(domid=77)
    back(ctx)
    assert kinds(after(world, ctx)) == [(DomainDeath, 77, 1)]
    world.host.destroy_domain(77)
    assert world.drained(ctx) == []


def test_an_eject_that_is_pending_in_xenstore_is_seen_by_the_new_evgen(world: World) -> None:
    ctx = world.open(recover=True)
    domid = world.host.create_domain()
    world.host.add_disk(domid, "xvdc")
    ctx.evenable_disk_eject(domid, "xvdc", user=1)
    with world.host.down():
        lost(ctx)
        world.host.eject_disk(domid, "xvdc")
    back(ctx)
    resynced = ctx.event_wait(timeout=10)
    assert isinstance(resynced, Resynced)
    assert resynced.missed == (gxl.EventType.DISK_EJECT,)
    assert kinds([ctx.event_wait(timeout=10)]) == [(DiskEject, domid, 1)]
    world.host.eject_disk(domid, "xvdc")
    assert kinds([ctx.event_wait(timeout=10)]) == [(DiskEject, domid, 1)]


def test_evgens_can_be_disabled_and_enabled_at_any_time(world: World) -> None:
    ctx = world.open(recover=True)
    one, two, three = (world.host.create_domain() for _ in range(3))
    world.host.add_disk(three, "xvdc")
    early, late = ctx.evenable_domain_death(one, user=1), ctx.evenable_domain_death(two, user=2)
    with world.host.down():
        lost(ctx)
        early.disable()
        early.disable()
        ctx.evenable_domain_death(three, user=3)
        brief = ctx.evenable_domain_death(two, user=4)
        assert "waits for xenstored" in repr(brief)
        brief.disable()
        ctx.evenable_disk_eject(three, "xvdc", user=5)
        ctx.evenable_domain_death(30000, user=6)
        world.host.shutdown_domain(three, 1)
        world.host.eject_disk(three, "xvdc")
    back(ctx)
    resynced, *events = [ctx.event_wait(timeout=10) for _ in range(4)]
    assert isinstance(resynced, Resynced)
    assert sorted(kinds(events), key=repr) == [
        (DiskEject, three, 5),
        (DomainDeath, 30000, 6),
        (DomainShutdown, three, 3),
    ]
    late.disable()
    for domid in (one, two, three):
        world.host.destroy_domain(domid)
    assert kinds(world.drained(ctx)) == [(DomainDeath, three, 3)]


def test_what_needs_an_answer_now_gets_a_clear_error_during_the_outage(world: World) -> None:
    ctx = world.open(recover=True)
    domid = world.host.create_domain("web1")
    with world.host.down():
        lost(ctx)
        for call in (
            lambda: ctx.domain_pause(domid),
            lambda: ctx.domain_create({"c_info": {"name": "x"}, "b_info": {}}, wait=False),
            ctx.list_domain,
            lambda: ctx.watch("web1"),
        ):
            with pytest.raises(gxl.Outage, match="the connection to Xen is lost since"):
                call()
        assert ctx.event_check() is None
    back(ctx)
    ctx.domain_pause(domid)
    assert "web1" in [domain.name for domain in ctx.list_domain()]


def test_an_operation_under_way_ends_and_says_that_its_outcome_is_unknown(world: World) -> None:
    ctx = world.open(recover=True)
    domid = world.host.create_domain(paused=True)
    operation = ctx.domain_shutdown(domid, wait=False, for_user=9)
    with world.host.down():
        lost(ctx)
        assert operation.done
        assert operation.rc is None
        with pytest.raises(gxl.Disaster, match=f"domain_shutdown.{domid}. was under way, and its outcome is unknown"):
            operation.wait()
    back(ctx)
    assert next(event for event in iter(ctx.event_check, None) if isinstance(event, OperationComplete)).rc == -1
    turn(ctx, lambda: not list(ctx._pump.recovery.former()))  # type: ignore[union-attr]  # None fails the test, too
    assert ctx.metrics().abandoned == 0


def test_a_ctx_that_can_not_be_freed_in_time_is_abandoned_and_counted(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery, "FREE_SECONDS", 0.1)
    ctx = world.open(recover=True)
    domid = world.host.create_domain(paused=True)
    # One of the application's own: nobody else can ask for its end.
    ended: list[int] = []
    ctx.engine.domain_shutdown(domid, AsyncHow(callback=ended.append))
    former = ctx.engine
    world.host.drop_connections()
    turn(ctx, lambda: ctx.metrics().recoveries == 1)
    turn(ctx, lambda: ctx.metrics().abandoned or ended)
    assert ctx.engine is not former
    assert ctx.metrics().abandoned == (0 if ended else 1)


def test_a_store_that_accepts_and_does_not_answer_holds_up_nobody(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery, "ANSWER_SECONDS", 0.05)
    ctx = world.open(recover=True)
    domid = world.host.create_domain()
    ctx.evenable_domain_death(domid)
    with world.host.stalled():
        world.host.drop_connections()
        lost(ctx)
        turn(ctx, lambda: "has not answered" in str(ctx.outage))
        world.host.destroy_domain(domid)
    back(ctx)
    assert kinds(after(world, ctx)) == [(DomainDeath, domid, 0)]


def test_an_engine_that_can_not_be_opened_is_tried_for_ever_and_the_property_says_why(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ctx = world.open(recover=True)
    domid = world.host.create_domain()
    ctx.evenable_domain_death(domid)
    with monkeypatch.context() as patched:

        def refuse(self: object) -> Any:
            raise gxl.EngineUnavailable("No permission to talk to Xen: run as root")

        patched.setattr(type(ctx._pump.reign.engine.succession()), "open", refuse)
        world.host.drop_connections()
        lost(ctx)
        turn(ctx, lambda: "attempt 5 " in str(ctx.outage))
        assert "run as root" in str(ctx.outage)
    back(ctx)
    failures = [record for record in caplog.records if "no new connection" in record.getMessage()]
    assert len(failures) == 1, "it is logged once a minute"
    world.host.destroy_domain(domid)
    assert kinds(after(world, ctx)) == [(DomainDeath, domid, 0)]


def test_a_forked_child_does_not_recover(world: World) -> None:
    ctx = world.open(recover=True)
    ctx.evenable_domain_death(world.host.create_domain())
    with world.host.down():
        lost(ctx)
        pid = os.fork()
        if not pid:
            status = 1
            try:
                with pytest.raises(gxl.MisuseError):
                    ctx.event_wait(timeout=1)
                ctx.close()
                status = 0 if ctx._pump.recovery is None else 2
            finally:
                os._exit(status)
        assert os.waitpid(pid, 0)[1] == 0
    back(ctx)


def test_without_recovery_an_operation_under_way_says_that_its_outcome_is_unknown(world: World) -> None:
    ctx = world.open()
    domid = world.host.create_domain(paused=True)
    operation = ctx.domain_shutdown(domid, wait=False)
    world.host.drop_connections()
    with pytest.raises(gxl.Disaster, match="its outcome is unknown"):
        operation.wait(10)


@pytest.mark.parametrize("whose", ["libxl's", "gxl's"])
def test_one_connection_that_is_cut_is_noticed_at_once(world: World, whose: str) -> None:
    ctx = world.open(recover=True)
    domid = world.host.create_domain()
    ctx.evenable_domain_death(domid)
    world.barrier(ctx)
    pump = ctx._pump
    if whose == "gxl's":
        cut(pump.side._fd)
    elif pump.reign.engine.hangup_fd is not None:
        # libxl itself says nothing about it.
        cut(pump.reign.engine.hangup_fd)
    else:
        cut(pump.reign.engine._ctx.store._connection.fileno())  # type: ignore[attr-defined]  # behind the interface, this implementation's own
    world.host.destroy_domain(domid)
    turn(ctx, lambda: ctx.metrics().recoveries == 1)
    events = [event for event in iter(ctx.event_check, None) if not isinstance(event, Resynced)]
    assert kinds(events) in ([], [(DomainDeath, domid, 0)])
    if not events:
        assert kinds([ctx.event_wait(timeout=10)]) == [(DomainDeath, domid, 0)]


def test_a_former_ctx_that_lives_on_for_a_while_takes_no_eject_from_the_present_one(world: World) -> None:
    ctx = world.open(recover=True)
    domid = world.host.create_domain(paused=True)
    world.host.add_disk(domid, "xvdc")
    ctx.evenable_disk_eject(domid, "xvdc", user=1)
    how = AsyncHow(callback=lambda rc: None)
    former = ctx._pump.reign.engine
    ctx.engine.domain_shutdown(domid, how)
    cut(ctx._pump.side._fd)
    turn(ctx, lambda: ctx.metrics().recoveries == 1)
    assert [reign.engine for reign in ctx._pump.reigns()][1:] == [former]
    for _ in range(3):
        world.host.eject_disk(domid, "xvdc")
        assert isinstance(ctx.event_wait(gxl.mask(DiskEject), timeout=10), DiskEject)
    former.ao_abort(how)
    turn(ctx, lambda: len(list(ctx._pump.reigns())) == 1)


def cut(fd: int) -> None:
    """End a connection, whoever else has an fd of it."""
    end = socket.socket(fileno=os.dup(fd))
    end.shutdown(socket.SHUT_RDWR)
    end.close()
