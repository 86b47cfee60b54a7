# SPDX-License-Identifier: LGPL-2.1-or-later
"""Fault: the process has no fd left (EMFILE), at each fd that is opened."""

from __future__ import annotations

import os
import posix
import resource
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import gevent
import pytest
from interruptions import check_nothing_parked
from leaks import Ledger, held
from outages import back, lost, soon, turn
from worlds import World, settle

import gxl

MOST = 30
"""More fds than any call here opens."""


@contextmanager
def left(count: int) -> Iterator[None]:
    """Inside, this process can open `count` more fds."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(map(int, os.listdir("/proc/self/fd")))
    taken = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + count + 2, hard))
    try:
        while True:
            try:
                taken.append(posix.dup(0))
            except OSError:
                break
        for _ in range(count):
            posix.close(taken.pop())
        yield
    finally:
        for fd in taken:
            posix.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_context_opens_or_says_why_not_and_leaves_nothing(world: World, sealed: Ledger) -> None:
    name = world.open().engine.name
    refused = 0
    for count in range(MOST):
        before = held()
        try:
            with left(count):
                # By its name: one that was given stays the giver's when the Context can't be made.
                ctx = gxl.Context(engine=name, hub="gevent")
        except (gxl.EngineUnavailable, gxl.HubUnavailable, OSError):
            refused += 1
            settle()
            assert held().keys() == before.keys(), count
        else:
            ctx.close()
            break
    assert refused


def _death(world: World, ctx: gxl.Context, count: int) -> None:
    domid = world.host.create_domain()
    with left(count):
        evgen = ctx.evenable_domain_death(domid)
    world.host.destroy_domain(domid)
    assert isinstance(ctx.event_wait(timeout=10), gxl.DomainDeath)
    evgen.disable()


def _eject(world: World, ctx: gxl.Context, count: int) -> None:
    domid = world.host.create_domain()
    world.host.add_disk(domid, "xvda")
    with left(count):
        evgen = ctx.evenable_disk_eject(domid, "xvda")
    world.host.eject_disk(domid, "xvda")
    assert isinstance(ctx.event_wait(timeout=10), gxl.DiskEject)
    evgen.disable()


def _delivery(world: World, ctx: gxl.Context, count: int) -> None:
    domid = world.host.create_domain()
    with ctx.expect(gxl.DomainDeath, domid) as death:
        world.host.destroy_domain(domid)
        with left(count):
            death.wait(10)


def _listing(world: World, ctx: gxl.Context, count: int) -> None:
    with left(count):
        assert ctx.list_domain()


def _pause(world: World, ctx: gxl.Context, count: int) -> None:
    domid = world.host.create_domain()
    with left(count):
        ctx.domain_pause(domid)


def _shutdown(world: World, ctx: gxl.Context, count: int) -> None:
    domid = world.host.create_domain()
    with left(count):
        ctx.domain_shutdown(domid)


def _destroy(world: World, ctx: gxl.Context, count: int) -> None:
    domid = world.host.create_domain()
    # Whoever can't look when a domain has appeared, has lost the host. So that it has appeared, is heard before.
    ctx.list_domain()
    try:
        with left(count):
            ctx.domain_destroy(domid)
    finally:
        if domid in [info.domid for info in world.host.domains()]:
            world.host.destroy_domain(domid)


USES: list[Callable[[World, gxl.Context, int], None]] = [
    *(_death, _eject, _delivery, _listing, _pause, _shutdown, _destroy)
]


@pytest.mark.parametrize("use", USES, ids=lambda use: use.__name__.removeprefix("_"))
def test_each_call_works_or_says_why_not_and_leaves_the_context_sound(
    world: World, sealed: Ledger, use: Callable[[World, gxl.Context, int], None]
) -> None:
    for count in range(MOST):
        ctx = world.open()
        try:
            use(world, ctx, count)
            enough = True
        except (gxl.LibxlError, OSError):
            enough = False
            use(world, ctx, MOST)
        gevent.sleep(0)
        assert not ctx._pump.operations
        check_nothing_parked(ctx)
        world.close()
        if enough:
            return
    raise AssertionError(f"{MOST} fds were not enough")


def recovers(world: World, count: int) -> bool:
    """Whether `count` fds are enough to come back with. Once there are more, it does, and has lost nothing."""
    ctx = world.open(recover=True)
    recovery = ctx._pump.recovery
    assert recovery is not None
    domid = world.host.create_domain()
    ctx.evenable_domain_death(domid)
    with ExitStack() as short:
        with world.host.down():
            lost(ctx)
            short.enter_context(left(count))
        tried = recovery._attempts
        turn(ctx, lambda: ctx.outage is None or recovery._attempts > tried + 2)
        enough = ctx.outage is None
        assert enough or "has failed" in str(ctx.outage)
    back(ctx)
    world.host.destroy_domain(domid)
    assert isinstance(ctx.event_wait(gxl.mask(gxl.DomainDeath), timeout=10), gxl.DomainDeath)
    world.close()
    return enough


@pytest.mark.usefixtures(soon.__name__)
def test_a_recovery_goes_on_until_there_are_enough_and_says_why_not(world: World, sealed: Ledger) -> None:
    refused = 0
    while not recovers(world, refused):
        refused += 1
    assert 0 < refused < MOST
