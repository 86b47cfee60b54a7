# SPDX-License-Identifier: LGPL-2.1-or-later
"""Those who wait while a Context loses its xenstored and finds it again; against each engine."""

from __future__ import annotations

import time

import gevent
import pytest
from outages import lost, soon
from worlds import World

import gxl
from gxl import DomainDeath, Resynced

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


def test_closing_during_an_outage_ends_at_once_and_waiters_are_told(world: World) -> None:
    ctx = world.open(recover=True)
    domid = world.host.create_domain()
    ctx.evenable_domain_death(domid)
    waiter = gevent.spawn(ctx.event_wait)
    with world.host.down():
        lost(ctx)
        began = time.monotonic()
        ctx.close()
        assert time.monotonic() - began < 1
        with pytest.raises(gxl.ContextClosed):
            waiter.get(timeout=10)
