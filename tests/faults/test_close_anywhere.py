# SPDX-License-Identifier: LGPL-2.1-or-later
"""Fault: the Context is closed under those who use it, at each point where one of them waits, and in every callback."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from typing import Any

import gevent
import pytest
from interruptions import Scene, check_nothing_parked, play, strikes
from leaks import Ledger
from scenes import SCENES, Play, strikes_of
from worlds import World, outcome, until
from zope.interface import implementer

import gxl
from gxl.interfaces import IEventHooks


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
def test_a_close_ends_every_wait_and_frees_the_context(world: World, sealed: Ledger, scene: Play) -> None:
    for strike in strikes_of(scene):
        ctx = world.open()
        closings: list[Any] = []

        def close(victim: object, ctx: gxl.Context = ctx, closings: list[Any] = closings) -> None:
            closings.append(gevent.spawn(ctx.close, 10))

        came_to = play(scene(world, ctx), strike, close)
        assert not isinstance(came_to, BaseException) or isinstance(came_to, gxl.GxlError), repr(came_to)
        assert [outcome(closing) for closing in closings] == [None] * len(closings)
        assert ctx._pump.freed == bool(closings)
        assert not ctx._pump.abandoned
        check_nothing_parked(ctx)
        ctx.close()
        world.contexts.remove(ctx)


def _closing(ctx: gxl.Context) -> Scene:
    yield ctx.close
    yield None


def test_a_close_that_is_killed_lets_go_of_the_loop_and_says_what_it_abandons(
    world: World, request: pytest.FixtureRequest
) -> None:
    if "GXL_ABANDON" not in os.environ:
        # While an abandoned ctx has a child, other engines of the process are kept from modes that might take it.
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", request.node.nodeid]
        alone = {**os.environ, "GXL_ABANDON": "1"}
        ran = subprocess.run(
            command, cwd=request.config.rootpath, env=alone, capture_output=True, text=True, timeout=120, check=False
        )
        assert ran.returncode == 0, ran.stdout
        assert "1 passed" in ran.stdout
        return
    world.open().domain_destroy(world.host.create_domain())
    world.close()
    ledger = Ledger()
    abandoned = []
    for strike in strikes():
        ctx = world.open()
        ctx.domain_destroy(world.host.create_domain(), wait=False)  # whose child close() has to wait for
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            play(_closing(ctx), strike, lambda victim: victim.kill(block=False))
        ctx.close()  # the victim may have been killed before its first step
        assert ctx._pump.freed
        assert [warning.category for warning in told] == [ResourceWarning] * ctx._pump.abandoned
        check_nothing_parked(ctx)
        abandoned.append(ctx._pump.abandoned)
        world.contexts.remove(ctx)
    assert any(abandoned)
    # What libxl has of its own it keeps, fds and a thread; its children are reaped all the same.
    assert not ledger.surplus(but=("fd ", "thread "))


@implementer(IEventHooks)
class Hooks:
    event_occurs_mask = 0
    event_occurs: Any = None
    disaster: Any = None


def _in_event_occurs(world: World, ctx: gxl.Context, close: Callable[..., Any]) -> None:
    hooks = Hooks()
    hooks.event_occurs_mask, hooks.event_occurs = gxl.EVENTMASK_ALL, close
    ctx.event_register_callbacks(hooks)
    domid = world.host.create_domain()
    ctx.evenable_domain_death(domid)
    world.host.destroy_domain(domid)


def _in_disaster(world: World, ctx: gxl.Context, close: Callable[..., Any]) -> None:
    hooks = Hooks()
    hooks.disaster = close
    ctx.event_register_callbacks(hooks)
    world.host.drop_connections()


def _in_a_link(world: World, ctx: gxl.Context, close: Callable[..., Any]) -> None:
    # Links run in the loop, where a close that has to wait can't be.
    operation = ctx.domain_pause(world.host.create_domain(), wait=False)
    operation.rawlink(lambda _: close())


def _in_a_greenlet_that_shares_the_turn(world: World, ctx: gxl.Context, close: Callable[..., Any]) -> None:
    domid = world.host.create_domain()
    ctx.evenable_domain_death(domid)
    waiting = gevent.spawn(ctx.event_wait)
    waiting.link(lambda _: close())
    gevent.sleep(0)
    world.host.destroy_domain(domid)


PLACES = [_in_event_occurs, _in_disaster, _in_a_link, _in_a_greenlet_that_shares_the_turn]


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__.removeprefix("_"))
def test_a_callback_may_close(world: World, sealed: Ledger, place: Callable[..., None]) -> None:
    ctx = world.open()
    closed: list[Any] = []

    def close(*_: object) -> None:
        ctx.close(5)
        closed.append(ctx._pump.freed)

    place(world, ctx, close)
    until(lambda: closed)
    assert closed == [True]


def test_a_predicate_may_close(world: World, sealed: Ledger) -> None:
    ctx = world.open()
    domid = world.host.create_domain()
    ctx.evenable_domain_death(domid)

    def close(event: gxl.Event) -> bool:
        ctx.close()
        return True

    waiting = gevent.spawn(ctx.event_wait, gxl.EVENTMASK_ALL, close)
    gevent.sleep(0)
    world.host.destroy_domain(domid)
    assert isinstance(outcome(waiting), (gxl.ContextClosed, gxl.DomainDeath))
    assert ctx._pump.freed
