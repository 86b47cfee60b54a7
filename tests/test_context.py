# SPDX-License-Identifier: LGPL-2.1-or-later
"""Context: waiting, checking, callbacks, ownership, closing; against each engine."""

from __future__ import annotations

import gc
import os
import time
import warnings
from typing import Any

import gevent
import pytest
from gevent.exceptions import BlockingSwitchOutError
from worlds import World, in_native_thread, outcome, settle, until
from zope.interface import implementer

import gxl
from gxl import DomainDeath, DomainShutdown, EventType, ShutdownReason, mask
from gxl.interfaces import IEventHooks


def wait_in_greenlet(ctx: gxl.Context, *args: Any, **how: Any) -> gevent.Greenlet[..., Any]:
    greenlet = gevent.spawn(ctx.event_wait, *args, **how)
    settle(1)
    return greenlet


def test_shutdown_and_death_reach_a_waiting_greenlet_as_typed_events(world: World) -> None:
    ctx = world.open()
    domid = world.host.create_domain("web1")
    ctx.evenable_domain_death(domid, user=2**64 - 1)
    first = wait_in_greenlet(ctx)
    settle()
    before = time.time()
    world.host.shutdown_domain(domid, 3)
    event = outcome(first)
    assert isinstance(event, DomainShutdown)
    assert event.shutdown_reason is ShutdownReason.CRASH
    assert (event.domid, event.for_user, event.name, event.seq) == (domid, 2**64 - 1, "web1", 1)
    assert event.domuuid == world.host.domain_info(domid).uuid
    assert event.time is not None
    assert before - 1 < event.time <= time.time()
    world.host.destroy_domain(domid)
    death = ctx.event_wait(timeout=5)
    assert isinstance(death, DomainDeath)
    assert (death.seq, death.name, death.domuuid) == (2, "web1", event.domuuid)


def test_a_poweroff_has_reason_zero(world: World) -> None:
    ctx = world.open()
    domid = world.host.create_domain()
    ctx.evenable_domain_death(domid)
    world.host.shutdown_domain(domid, 0)
    match ctx.event_wait(timeout=5):
        case DomainShutdown(found, reason):
            assert (found, reason) == (domid, ShutdownReason.POWEROFF)
        case other:
            pytest.fail(f"{other!r}")


def test_the_hub_runs_on_while_a_greenlet_waits(world: World) -> None:
    ctx = world.open()
    domid = world.host.create_domain()
    ctx.evenable_domain_death(domid)
    ticks = []

    def tick() -> None:
        for _ in range(20):
            ticks.append(time.monotonic())
            gevent.sleep(0.005)
        world.host.destroy_domain(domid)

    gevent.spawn(tick)
    assert isinstance(ctx.event_wait(timeout=5), DomainDeath)
    assert len(ticks) == 20


def test_a_timeout_ends_the_wait_and_loses_nothing(world: World) -> None:
    ctx = world.open()
    domid = world.host.create_domain()
    ctx.evenable_domain_death(domid)
    begin = time.monotonic()
    with pytest.raises(gxl.WaitTimeout) as caught:
        ctx.event_wait(timeout=0.05)
    assert isinstance(caught.value, TimeoutError)
    assert 0.05 <= time.monotonic() - begin < 2
    with pytest.raises(gxl.WaitTimeout):
        ctx.event_wait(timeout=0)
    world.host.destroy_domain(domid)
    assert isinstance(ctx.event_wait(timeout=5), DomainDeath)


def test_a_foreign_gevent_timeout_passes_through(world: World) -> None:
    ctx = world.open()
    with pytest.raises(gevent.Timeout) as caught, gevent.Timeout(0.02) as mine:
        ctx.event_wait(timeout=10)
    assert caught.value is mine


def test_the_event_of_a_killed_waiter_goes_to_the_next(world: World) -> None:
    ctx = world.open()
    first, second = wait_in_greenlet(ctx), wait_in_greenlet(ctx)
    # Killed, but not yet run again: it is chosen for the event, and leaves without it.
    first.kill(block=False)
    ctx.evenable_domain_death(30000)
    assert isinstance(outcome(second), DomainDeath)
    assert isinstance(outcome(first), gevent.GreenletExit)


def test_a_killed_waiter_with_no_successor_leaves_its_event_in_the_queue(world: World) -> None:
    ctx = world.open()
    victim = wait_in_greenlet(ctx)
    victim.kill(block=False)
    ctx.evenable_domain_death(30000)
    assert isinstance(outcome(victim), gevent.GreenletExit)
    assert isinstance(ctx.event_check(), DomainDeath)


def test_waiters_for_the_same_event_get_it_in_the_order_in_which_they_came(world: World) -> None:
    ctx = world.open()
    domids = [world.host.create_domain() for _ in range(3)]
    for domid in domids:
        ctx.evenable_domain_death(domid)
    waiters = [
        wait_in_greenlet(ctx),
        wait_in_greenlet(ctx, mask(DomainDeath)),
        wait_in_greenlet(ctx, predicate=lambda event: True),
    ]
    for domid in domids:
        world.host.destroy_domain(domid)
        settle()
    assert [outcome(waiter).domid for waiter in waiters] == domids


def test_waiters_choose_by_type_domid_user_and_predicate(world: World) -> None:
    ctx = world.open()
    one, two = world.host.create_domain(), world.host.create_domain()
    ctx.evenable_domain_death(one, user=11)
    ctx.evenable_domain_death(two, user=22)
    by_domid = wait_in_greenlet(ctx, domid=two)
    by_user = wait_in_greenlet(ctx, user=11)
    by_type = wait_in_greenlet(ctx, mask(EventType.DOMAIN_DEATH), domid=one)
    by_predicate = wait_in_greenlet(ctx, predicate=lambda event: isinstance(event, DomainDeath))
    world.host.shutdown_domain(one, 1)
    assert outcome(by_user).domid == one
    world.host.shutdown_domain(two, 2)
    assert outcome(by_domid).shutdown_reason is ShutdownReason.SUSPEND
    world.host.destroy_domain(one)
    assert isinstance(outcome(by_type), DomainDeath)
    world.host.destroy_domain(two)
    assert outcome(by_predicate).domid == two
    assert ctx.queued == 0


def test_an_event_is_waited_for_by_a_name_whoever_else_waits(world: World) -> None:
    ctx = world.open()
    one, two = world.host.create_domain("one"), world.host.create_domain("two")
    ctx.evenable_domain_death("one")
    ctx.evenable_domain_death("two")
    waiting = [gevent.spawn(ctx.event_wait, domid=name, timeout=5) for name in ("two", "one")]
    settle()
    world.barrier(ctx)
    world.host.destroy_domain(one)
    world.host.destroy_domain(two)
    assert [outcome(greenlet).domid for greenlet in waiting] == [two, one]


def test_event_check_takes_the_oldest_that_passes_and_never_waits(world: World) -> None:
    ctx = world.open()
    assert ctx.event_check() is None
    one, two = world.host.create_domain(), world.host.create_domain()
    ctx.evenable_domain_death(one, user=1)
    ctx.evenable_domain_death(two, user=2)
    world.host.destroy_domain(one)
    world.host.destroy_domain(two)
    world.barrier(ctx)
    assert ctx.queued == 2
    assert ctx.event_check(mask(DomainShutdown)) is None
    assert ctx.event_check(user=2).domid == two  # type: ignore[union-attr]  # None fails the test, too
    assert ctx.event_check(domid=two) is None
    assert ctx.event_check(predicate=lambda event: event.domid == one).domid == one  # type: ignore[union-attr]  # None fails the test, too
    assert ctx.event_check() is None


def test_a_predicate_that_raises_surfaces_in_its_waiter_and_loses_no_event(world: World) -> None:
    ctx = world.open()
    domid = world.host.create_domain()
    ctx.evenable_domain_death(domid)

    def broken(event: gxl.Event) -> bool:
        raise LookupError("a bug in the application")

    unlucky = wait_in_greenlet(ctx, predicate=broken)
    lucky = wait_in_greenlet(ctx)
    world.host.destroy_domain(domid)
    assert isinstance(outcome(lucky), DomainDeath)
    assert isinstance(outcome(unlucky), LookupError)


def test_a_predicate_that_would_switch_gets_an_error_and_loses_no_event(world: World) -> None:
    ctx = world.open()
    domid = world.host.create_domain()
    ctx.evenable_domain_death(domid)
    unlucky = wait_in_greenlet(ctx, predicate=lambda event: gevent.sleep(0) or True)
    world.host.destroy_domain(domid)
    assert isinstance(outcome(unlucky), BlockingSwitchOutError)
    with pytest.raises(BlockingSwitchOutError):
        ctx.event_check(predicate=lambda event: gevent.sleep(0) or True)
    assert isinstance(ctx.event_check(), DomainDeath)


def test_a_predicate_may_call_the_context(world: World) -> None:
    ctx = world.open()
    domid = world.host.create_domain()
    evgen = ctx.evenable_domain_death(domid)

    def disabling(event: gxl.Event) -> bool:
        evgen.disable()
        return ctx.event_check(mask(DomainDeath)) is None

    waiter = wait_in_greenlet(ctx, predicate=disabling)
    world.host.shutdown_domain(domid, 0)
    assert isinstance(outcome(waiter), DomainShutdown)
    world.host.destroy_domain(domid)
    world.barrier(ctx)
    assert ctx.event_check() is None


@implementer(IEventHooks)
class Hooks:
    """An application's callbacks."""

    def __init__(self, event_occurs: Any, event_occurs_mask: int = gxl.EVENTMASK_ALL) -> None:
        self.event_occurs_mask = event_occurs_mask
        self.event_occurs = event_occurs
        self.disasters: list[tuple[int, str, int]] = []

    def disaster(self, type: int, msg: str, errnoval: int) -> None:
        self.disasters.append((type, msg, errnoval))


def test_callbacks_run_in_order_in_a_greenlet_and_may_block_and_call_gxl(world: World) -> None:
    ctx = world.open()
    domids = [world.host.create_domain() for _ in range(5)]
    seen: list[tuple[int, bool, int]] = []
    hub = gevent.get_hub()

    def occurs(event: gxl.Event) -> None:
        gevent.sleep(0.001)
        seen.append((event.domid, gevent.getcurrent() is hub, len(ctx.engine.list_domain())))

    ctx.event_register_callbacks(Hooks(occurs, mask(DomainDeath)))
    for domid in domids:
        ctx.evenable_domain_death(domid)
    for domid in domids:
        world.host.destroy_domain(domid)
    until(lambda: len(seen) == 5)
    assert [domid for domid, _, _ in seen] == domids
    assert not any(in_hub for _, in_hub, _ in seen)
    assert ctx.event_check() is None


def test_a_callback_that_raises_is_reported_and_the_next_still_runs(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    ctx = world.open()
    reported: list[Any] = []
    monkeypatch.setattr(gevent.get_hub(), "handle_error", lambda context, kind, value, tb: reported.append(value))
    seen: list[int] = []

    def occurs(event: gxl.Event) -> None:
        seen.append(event.domid)
        if len(seen) == 1:
            raise LookupError("first")
        if len(seen) == 2:
            raise gevent.GreenletExit

    ctx.event_register_callbacks(Hooks(occurs))
    domids = [world.host.create_domain() for _ in range(3)]
    for domid in domids:
        ctx.evenable_domain_death(domid)
        world.host.destroy_domain(domid)
    until(lambda: len(seen) == 3)
    assert seen == domids
    assert [type(error) for error in reported] == [LookupError]


def test_types_outside_the_mask_are_queued(world: World) -> None:
    ctx = world.open()
    domid = world.host.create_domain()
    seen: list[gxl.Event] = []
    ctx.event_register_callbacks(Hooks(seen.append, mask(DomainDeath)))
    ctx.evenable_domain_death(domid)
    world.host.shutdown_domain(domid, 0)
    assert isinstance(ctx.event_wait(timeout=5), DomainShutdown)
    ctx.event_register_callbacks(None)
    world.host.destroy_domain(domid)
    assert isinstance(ctx.event_wait(timeout=5), DomainDeath)
    assert not seen


def test_another_native_thread_gets_a_clear_error(world: World) -> None:
    ctx = world.open()
    caught: list[BaseException] = []

    def intrude() -> None:
        for call in (ctx.event_check, lambda: ctx.evenable_domain_death(1), ctx.close):
            try:
                call()
            except gxl.MisuseError as error:
                caught.append(error)

    in_native_thread(intrude)
    assert len(caught) == 3
    assert "thread" in str(caught[0])
    assert ctx.event_check() is None


def test_after_a_fork_the_child_is_refused_and_the_parent_works(world: World) -> None:
    ctx = world.open()
    domid = world.host.create_domain()
    ctx.evenable_domain_death(domid)
    settle()
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            try:
                ctx.event_check()
                os.write(writing, b"allowed")
            except gxl.MisuseError as error:
                os.write(writing, str(error).encode())
            ctx.close()
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    os.close(writing)
    said = os.read(reading, 1000).decode()
    os.close(reading)
    assert "process" in said
    world.host.destroy_domain(domid)
    assert isinstance(ctx.event_wait(timeout=5), DomainDeath)


def test_close_wakes_every_waiter_with_an_error(world: World) -> None:
    ctx = world.open()
    waiters = [wait_in_greenlet(ctx), wait_in_greenlet(ctx, domid=7), wait_in_greenlet(ctx, predicate=bool)]
    ctx.close()
    ctx.close()
    assert all(isinstance(outcome(waiter), gxl.ContextClosed) for waiter in waiters)
    for call in (
        ctx.event_check,
        ctx.event_wait,
        ctx.list_domain,
        lambda: ctx.evenable_domain_death(1),
        lambda: ctx.evenable_disk_eject(1, "xvda"),
        lambda: ctx.event_register_callbacks(None),
    ):
        with pytest.raises(gxl.ContextClosed):
            call()


def test_close_ends_a_look_at_the_domains_with_an_error(world: World) -> None:
    ctx = world.open()
    looking = gevent.spawn(ctx.list_domain)
    settle(1)
    ctx.close()
    assert isinstance(outcome(looking), gxl.ContextClosed)


def test_close_may_be_called_from_a_callback(world: World) -> None:
    ctx = world.open()
    domid = world.host.create_domain()
    ctx.event_register_callbacks(Hooks(lambda event: ctx.close()))
    ctx.evenable_domain_death(domid)
    world.host.destroy_domain(domid)
    until(lambda: ctx.closed)


@pytest.mark.usefixtures("leaves_nothing")
def test_close_leaves_no_fd_timer_or_reference_behind(world: World) -> None:
    settle()
    active = gevent.get_hub().loop.activecnt
    ctx = world.open()
    domid = world.host.create_domain()
    world.host.add_disk(domid, "hdc")
    ctx.evenable_domain_death(domid)
    ctx.evenable_disk_eject(domid, "hdc")
    settle()
    ctx.close()
    evgens = [o for o in gc.get_objects() if isinstance(o, gxl.evgens.Evgen) and o._feeds is ctx._pump.feeds]
    assert not any(evgen._feed for evgen in evgens)
    gevent.sleep(0.01)
    assert gevent.get_hub().loop.activecnt == active


def test_an_unclosed_context_only_warns(world: World) -> None:
    ctx = world.open()
    world.contexts.clear()
    pump = ctx._pump
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del ctx
        gc.collect()
    assert [entry.category for entry in caught] == [ResourceWarning]
    assert not pump.freed
    assert pump.free()


def test_an_engine_that_is_owned_refuses_a_second_pump(world: World) -> None:
    engine = world.engine()
    ctx = gxl.Context(engine=engine, hub="gevent")
    world.contexts.append(ctx)
    for call in (
        engine.event_check,
        engine.event_wait,
        engine.osevent_beforepoll,
        lambda: engine.osevent_afterpoll([]),
        engine.childproc_sigchld_occurred,
        engine.ctx_free,
        lambda: engine.domain_pause(1),
        lambda: engine.evenable_domain_death(1),
        lambda: gxl.Context(engine=engine, hub="gevent"),
    ):
        with pytest.raises(gxl.MisuseError):
            call()
    assert [info.domid for info in engine.list_domain()] == [0]


def test_an_operation_of_the_applications_own_completes_in_the_queue(world: World) -> None:
    ctx = world.open()
    domid = world.host.create_domain()
    # The first evgen's token is 1 too: events are told apart by their type, not by that number.
    ctx.evenable_domain_death(domid, user=5)
    ctx.engine.domain_pause(domid, gxl.AsyncHow(for_event=1))
    event = ctx.event_wait(timeout=5)
    assert isinstance(event, gxl.OperationComplete)
    assert (event.domid, event.rc, event.for_user) == (domid, 0, 1)


def test_names_come_with_the_list_of_domains(world: World) -> None:
    ctx = world.open()
    domid = world.host.create_domain("db1")
    world.host.pause_domain(domid)
    domains = {domain.domid: domain for domain in ctx.list_domain()}
    assert domains[domid].name == "db1"
    assert domains[domid].state == "paused"
    assert domains[0].name == "Domain-0"


@pytest.mark.parametrize(
    ("call", "error", "named"),
    [
        (lambda ctx: ctx.evenable_domain_death("5"), LookupError, "'5'"),
        (lambda ctx: ctx.evenable_domain_death(5.0), TypeError, "5.0"),
        (lambda ctx: ctx.evenable_domain_death(True), TypeError, "True"),
        (lambda ctx: ctx.evenable_domain_death(-1), ValueError, "-1"),
        (lambda ctx: ctx.evenable_domain_death(2**32), ValueError, "4294967296"),
        (lambda ctx: ctx.evenable_domain_death(1, user=2**64), ValueError, str(2**64)),
        (lambda ctx: ctx.evenable_domain_death(1, user=-1), ValueError, "-1"),
        (lambda ctx: ctx.evenable_disk_eject(1, "floppy"), ValueError, "floppy"),
        (lambda ctx: ctx.evenable_disk_eject(1, None), TypeError, "None"),
        (lambda ctx: ctx.event_check(1 << 40), ValueError, "0x10000000000"),
        (lambda ctx: ctx.event_wait(1 << 40), ValueError, "0x10000000000"),
        (lambda ctx: ctx.event_wait("death"), TypeError, "death"),
        (lambda ctx: ctx.event_wait(timeout=-1), ValueError, "-1"),
        (lambda ctx: ctx.event_wait(timeout="1"), TypeError, "'1'"),
        (lambda ctx: ctx.event_wait(domid=-3), ValueError, "-3"),
        (lambda ctx: ctx.event_check(user=2**64), ValueError, str(2**64)),
        (lambda ctx: ctx.event_register_callbacks(Hooks(None)), ValueError, "event_occurs"),
        (lambda ctx: ctx.event_register_callbacks(object()), TypeError, "adapt"),
        (lambda ctx: ctx.evdisable_domain_death(7), TypeError, "7"),
        (lambda ctx: ctx.close(timeout=-2), ValueError, "-2"),
    ],
)
def test_bad_input_is_named_before_anything_changes(world: World, call: Any, error: Any, named: str) -> None:
    ctx = world.open()
    with pytest.raises(error) as caught:
        call(ctx)
    assert named in str(caught.value)
    assert not ctx.closed
    assert ctx.queued == 0
    assert not ctx._pump.feeds.by_token
