# SPDX-License-Identifier: LGPL-2.1-or-later
"""Fault: the application's code raises wherever gxl calls it, also what is no Exception, such as Ctrl-C."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import gevent
import pytest
from interruptions import check_nothing_parked
from leaks import Ledger
from worlds import World, outcome, until
from zope.interface import implementer

import gxl
from gxl.interfaces import AsyncHow, IEventHooks

Raiser = Callable[..., Any]
Place = Callable[[World, gxl.Context, int, Raiser], None]


@implementer(IEventHooks)
class Hooks:
    def __init__(self, event_occurs: Any = None, disaster: Any = None) -> None:
        self.event_occurs_mask = gxl.EVENTMASK_ALL if event_occurs else 0
        self.event_occurs = event_occurs
        self.disaster = disaster


def _taken(ctx: gxl.Context, domid: int) -> None:
    assert isinstance(ctx.event_wait(timeout=10, domid=domid), gxl.DomainDeath)


def event_occurs(world: World, ctx: gxl.Context, domid: int, raiser: Raiser) -> None:
    heard: list[int] = []

    def occurs(event: gxl.Event) -> None:
        heard.append(event.domid)
        raiser()

    other = world.host.create_domain()
    ctx.evenable_domain_death(other)
    ctx.event_register_callbacks(Hooks(occurs))
    world.host.destroy_domain(domid)
    world.host.destroy_domain(other)
    until(lambda: len(heard) == 2)
    assert heard == [domid, other]
    ctx.event_register_callbacks(None)


def disaster_of_a_type(world: World, ctx: gxl.Context, domid: int, raiser: Raiser) -> None:
    """The Context goes on, and so do its waiters for other events."""
    ctx.event_register_callbacks(Hooks(disaster=raiser))
    ctx._pump._disaster(ctx._pump.reign, gxl.Disaster(gxl.EventType.DISK_EJECT, "an eject was lost"))
    world.host.destroy_domain(domid)
    _taken(ctx, domid)


def predicate_of_a_waiter(world: World, ctx: gxl.Context, domid: int, raiser: Raiser) -> None:
    waiting = gevent.spawn(ctx.event_wait, gxl.EVENTMASK_ALL, raiser)
    gevent.sleep(0)
    world.host.destroy_domain(domid)
    assert not isinstance(outcome(waiting), gxl.Event)
    _taken(ctx, domid)


def predicate_of_a_look(world: World, ctx: gxl.Context, domid: int, raiser: Raiser) -> None:
    world.host.destroy_domain(domid)
    until(lambda: ctx.queued)
    looking = gevent.spawn(ctx.event_check, gxl.EVENTMASK_ALL, raiser)
    assert not isinstance(outcome(looking), gxl.Event)
    _taken(ctx, domid)


def predicate_of_an_expectation(world: World, ctx: gxl.Context, domid: int, raiser: Raiser) -> None:
    def wait() -> gxl.Event:
        with ctx.expect(gxl.DomainDeath, domid, predicate=raiser) as death:
            return death.wait(10)

    waiting = gevent.spawn(wait)
    gevent.sleep(0)
    world.host.destroy_domain(domid)
    assert not isinstance(outcome(waiting), gxl.Event)
    _taken(ctx, domid)


def callback_of_an_operation(world: World, ctx: gxl.Context, domid: int, raiser: Raiser) -> None:
    """One that the application started at the engine itself: its callback runs inside libxl."""
    other = world.host.create_domain()
    gevent.spawn(ctx.engine.domain_pause, other, AsyncHow(callback=raiser)).join(timeout=10)
    gevent.spawn(ctx.engine.domain_destroy, other, AsyncHow(callback=raiser)).join(timeout=10)
    world.host.destroy_domain(domid)
    _taken(ctx, domid)


def link_of_an_operation(world: World, ctx: gxl.Context, domid: int, raiser: Raiser) -> None:
    operation = ctx.domain_pause(domid, wait=False)
    told: list[object] = []
    operation.rawlink(raiser)
    operation.rawlink(told.append)
    world.host.destroy_domain(domid)
    _taken(ctx, domid)
    until(lambda: told == [operation])


def handler_of_the_log(world: World, ctx: gxl.Context, domid: int, raiser: Raiser) -> None:
    handler = logging.Handler()
    handler.emit = raiser  # type: ignore[method-assign]  # replaced on purpose
    logger = logging.getLogger("gxl")
    logger.addHandler(handler)
    try:
        ctx._pump.log(logging.CRITICAL, "something has happened")
        with pytest.raises(gxl.GxlError):
            ctx.domain_pause(30000)  # which libxl logs
        gevent.sleep(0.001)
        world.host.destroy_domain(domid)
        _taken(ctx, domid)
    finally:
        logger.removeHandler(handler)


PLACES: list[Place] = [
    *(event_occurs, disaster_of_a_type, predicate_of_a_waiter, predicate_of_a_look, predicate_of_an_expectation),
    *(callback_of_an_operation, link_of_an_operation, handler_of_the_log),
]


@pytest.mark.parametrize("error", [LookupError, gevent.GreenletExit, KeyboardInterrupt], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
def test_no_event_is_lost_and_the_next_is_delivered(
    world: World, sealed: Ledger, monkeypatch: pytest.MonkeyPatch, place: Place, error: type[BaseException]
) -> None:
    reported: list[object] = []
    monkeypatch.setattr(gevent.get_hub(), "handle_error", lambda context, kind, value, tb: reported.append(value))
    raised = 0

    def raiser(*_: object) -> Any:
        nonlocal raised
        raised += 1
        raise error

    ctx = world.open()
    domid = world.host.create_domain()
    ctx.evenable_domain_death(domid)
    place(world, ctx, domid, raiser)
    assert raised
    assert ctx.event_check() is None
    assert ctx._pump.dead is None
    until(lambda: not ctx._pump.operations)
    check_nothing_parked(ctx)


def test_what_was_reported_before_an_interrupt_is_delivered_at_once(
    world: World, sealed: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Ctrl-C strikes wherever Python happens to be: here, in the engine, and in the delivery of an event.
    ctx = world.open()
    pump = ctx._pump
    monkeypatch.setattr(gevent.get_hub(), "handle_error", lambda *_: None)
    delivered: list[str] = []

    def interrupted() -> None:
        raise KeyboardInterrupt

    def turn() -> None:
        pump.arrived(interrupted)
        pump.arrived(lambda: delivered.append("after the delivery that was interrupted"))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pump._turn(turn)
    until(lambda: delivered)
