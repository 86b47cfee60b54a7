# SPDX-License-Identifier: LGPL-2.1-or-later
"""Fault: the time is up, the caller's own or gxl's, at each point where a call of the public API waits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gevent
import pytest
from interruptions import check_nothing_parked, play
from leaks import Ledger
from scenes import SCENES, Play, strikes_of
from worlds import World, until

import gxl


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
def test_a_gevent_timeout_passes_through_and_loses_and_leaves_nothing(
    world: World, sealed: Ledger, scene: Play
) -> None:
    ctx = world.open()
    for strike in strikes_of(scene):
        alarm = gevent.Timeout()

        def ring(victim: Any, alarm: gevent.Timeout = alarm) -> None:
            gevent.get_hub().loop.run_callback(victim.throw, alarm)

        came_to = play(scene(world, ctx), strike, ring)
        assert came_to is alarm or not isinstance(came_to, BaseException), repr(came_to)
        until(lambda: not ctx._pump.operations)
        check_nothing_parked(ctx)


def _expect(ctx: gxl.Context, domid: int, timeout: float) -> None:
    with ctx.expect(gxl.DomainDeath, domid) as death:
        death.wait(timeout)


def _started(ctx: gxl.Context, domid: int, timeout: float) -> None:
    operation = ctx.domain_shutdown(domid, wait=False)
    try:
        operation.wait(timeout)
    finally:
        operation.abort()


# The guest is paused: it neither answers nor ends.
LIMITED: list[Callable[[gxl.Context, int, float], Any]] = [
    lambda ctx, domid, timeout: ctx.event_wait(timeout=timeout),
    lambda ctx, domid, timeout: ctx.event_wait(predicate=lambda event: False, timeout=timeout, domid=domid, user=1),
    _expect,
    lambda ctx, domid, timeout: ctx.wait_shutdown(domid, timeout),
    _started,
    lambda ctx, domid, timeout: ctx.domain_shutdown(domid, timeout=timeout),
    lambda ctx, domid, timeout: ctx.domain_reboot(domid, timeout=timeout),
]


@pytest.mark.parametrize("timeout", [0, 0.01])
@pytest.mark.parametrize("call", range(len(LIMITED)))
def test_each_time_limit_ends_its_wait_and_leaves_nothing(
    world: World, sealed: Ledger, call: int, timeout: float
) -> None:
    ctx = world.open()
    domid = world.host.create_domain(paused=True)
    began = gevent.get_hub().loop.now()
    with pytest.raises(gxl.WaitTimeout):
        LIMITED[call](ctx, domid, timeout)
    gevent.get_hub().loop.update_now()
    assert gevent.get_hub().loop.now() - began >= timeout
    until(lambda: not ctx._pump.operations)
    check_nothing_parked(ctx)


@pytest.mark.parametrize("timeout", [0, 0.01])
def test_a_watch_whose_time_is_up_ends_and_leaves_nothing(world: World, sealed: Ledger, timeout: float) -> None:
    ctx = world.open()
    domid = world.host.create_domain()
    assert list(ctx.watch(domid, timeout=timeout)) == []
    assert list(ctx.watch(timeout=timeout)) == []
    check_nothing_parked(ctx)
    assert not ctx._pump.feeds.by_token
