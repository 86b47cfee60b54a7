# SPDX-License-Identifier: LGPL-2.1-or-later
"""Fault: of two Contexts in one process, one dies."""

from __future__ import annotations

import errno

import gevent
from leaks import Ledger
from worlds import World, outcome

import gxl


def test_the_other_loses_nothing(world: World, sealed: Ledger) -> None:
    doomed, other = world.open(), world.open()
    domid = world.host.create_domain()
    for ctx in (doomed, other):
        ctx.evenable_domain_death(domid)
        world.barrier(ctx)
    waiting = {ctx: gevent.spawn(ctx.event_wait) for ctx in (doomed, other)}
    gevent.sleep(0)
    # The next connection that asks for anything is broken.
    world.host.fail_next("READ", errno.EPIPE)
    gevent.spawn(doomed.list_domain).join(timeout=10)
    assert isinstance(outcome(waiting[doomed]), gxl.Disaster)
    world.host.destroy_domain(domid)
    assert isinstance(outcome(waiting[other]), gxl.DomainDeath)
    assert not other._pump.dead
    other.domain_destroy(world.host.create_domain())
