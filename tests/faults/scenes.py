# SPDX-License-Identifier: LGPL-2.1-or-later
"""Every call of the public API that waits, as a Scene of tests/faults/interruptions.py.

Each checks that what it waited for is still to be had, once, if the call was interrupted. Where the interruption was
the Context's end, there is nothing more to be had.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import gevent
from interruptions import TURNS, Scene, Strike, strikes
from worlds import World, until

import gxl
from gxl import pump
from gxl.errors import Aborted, ContextClosed, Fail, GuestTimedOut, LibxlError

Play = Callable[[World, gxl.Context], Scene]


def exactly_one(world: World, ctx: gxl.Context, result: Any, kind: type[gxl.Event], **which: Any) -> None:
    """The event that the call waited for is what it came to, or else it is in the queue; and there is no other."""
    if ctx.closed:
        assert isinstance(result, (gxl.Event, gxl.ContextClosed)), repr(result)
        return
    event = result if isinstance(result, gxl.Event) else ctx.event_wait(timeout=10, **which)
    assert isinstance(event, kind)
    world.barrier(ctx)
    assert ctx.event_check() is None


def event_wait(world: World, ctx: gxl.Context) -> Scene:
    domid = world.host.create_domain()
    ctx.evenable_domain_death(domid)
    yield lambda: ctx.event_wait()
    world.host.destroy_domain(domid)
    exactly_one(world, ctx, (yield None), gxl.DomainDeath, domid=domid)


def event_wait_with_a_time_limit(world: World, ctx: gxl.Context) -> Scene:
    domid = world.host.create_domain()
    ctx.evenable_domain_death(domid)
    yield lambda: ctx.event_wait(gxl.mask(gxl.DomainDeath), lambda event: True, timeout=60, domid=domid)
    world.host.destroy_domain(domid)
    exactly_one(world, ctx, (yield None), gxl.DomainDeath, domid=domid)


def event_wait_for_an_eject(world: World, ctx: gxl.Context) -> Scene:
    domid = world.host.create_domain()
    world.host.add_disk(domid, "xvda")
    with ctx.evenable_disk_eject(domid, "xvda", user=5):
        yield lambda: ctx.event_wait(user=5)
        world.host.eject_disk(domid, "xvda")
        exactly_one(world, ctx, (yield None), gxl.DiskEject, user=5)


def event_wait_before_another(world: World, ctx: gxl.Context) -> Scene:
    """Whoever came second gets what the first did not take."""
    domid = world.host.create_domain()
    ctx.evenable_domain_death(domid)
    yield lambda: ctx.event_wait(domid=domid)
    second = gevent.spawn(ctx.event_wait, gxl.mask(gxl.DomainDeath), None, 10)
    gevent.sleep(0)
    world.host.destroy_domain(domid)
    result = yield None
    if isinstance(result, gxl.Event):
        second.kill()
        assert ctx.closed or ctx.event_check() is None
    elif ctx.closed:
        second.join(timeout=10)
        assert isinstance(second.exception, ContextClosed)
    else:
        assert isinstance(second.get(timeout=10), gxl.DomainDeath)


def expectation(world: World, ctx: gxl.Context) -> Scene:
    domid = world.host.create_domain()
    with ctx.expect(gxl.DomainDeath, domid) as death:
        yield lambda: death.wait(60)
        world.host.destroy_domain(domid)
        result = yield None
        if not ctx.closed:
            assert isinstance(death.wait(10), gxl.DomainDeath)
            assert not isinstance(result, gxl.Event) or result is death.event


def wait_shutdown(world: World, ctx: gxl.Context) -> Scene:
    domid = world.host.create_domain()
    yield lambda: ctx.wait_shutdown(domid, timeout=60)
    world.host.shutdown_domain(domid, 1)
    yield None
    if not ctx.closed:
        assert not ctx._pump.feeds._domains
        assert isinstance(ctx.wait_shutdown(domid, timeout=10), gxl.DomainShutdown)
    world.host.destroy_domain(domid)


def watcher(world: World, ctx: gxl.Context) -> Scene:
    domid = world.host.create_domain()
    with ctx.watch(domid) as events:
        yield lambda: next(events)
        world.host.shutdown_domain(domid, 2)
        result = yield None
        if ctx.closed:
            assert isinstance(result, (gxl.DomainShutdown, ContextClosed))
        else:
            assert isinstance(result if isinstance(result, gxl.Event) else next(events), gxl.DomainShutdown)
            world.host.destroy_domain(domid)
            assert [type(event) for event in events] == [gxl.DomainDeath]


def watch_by_name(world: World, ctx: gxl.Context) -> Scene:
    domid = world.host.create_domain("by-name")
    world.host.shutdown_domain(domid, 0)

    def watch() -> list[gxl.Event]:
        with ctx.watch("by-name", types=[gxl.DomainShutdown]) as events:
            return [next(events)]

    yield watch
    yield None
    if not ctx.closed:
        assert not ctx._pump.feeds._domains
    world.host.destroy_domain(domid)


def list_domain(world: World, ctx: gxl.Context) -> Scene:
    domid = world.host.create_domain("listed")
    yield ctx.list_domain
    yield None
    if not ctx.closed:
        assert "listed" in [domain.name for domain in ctx.list_domain()]
    world.host.destroy_domain(domid)


def domid_of(world: World, ctx: gxl.Context) -> Scene:
    domid = world.host.create_domain("sought")
    yield lambda: ctx.domid_of("sought")
    yield None
    if not ctx.closed:
        assert ctx.domid_of("sought") == domid
    world.host.destroy_domain(domid)


def _completion(ctx: gxl.Context, result: Any, any_rc: bool = False) -> None:
    """An operation that nobody waits for any more is asked to stop, and still says how it ended, once."""
    if ctx.closed:
        return
    event = ctx.event_wait(gxl.mask(gxl.OperationComplete), timeout=10, user=9)
    assert isinstance(event, gxl.OperationComplete)
    assert any_rc or event.rc in (0, Aborted.code, Fail.code, GuestTimedOut.code)
    if isinstance(result, gxl.Operation):
        assert event.rc == result.rc == 0
    until(lambda: not ctx._pump.operations)
    assert ctx.event_check() is None


def domain_pause(world: World, ctx: gxl.Context) -> Scene:
    domid = world.host.create_domain()
    yield lambda: ctx.domain_pause(domid, for_user=9)
    _completion(ctx, (yield None))
    world.host.destroy_domain(domid)


def domain_unpause(world: World, ctx: gxl.Context) -> Scene:
    domid = world.host.create_domain(paused=True)
    yield lambda: ctx.domain_unpause(domid, for_user=9)
    _completion(ctx, (yield None))
    world.host.destroy_domain(domid)


def domain_shutdown(world: World, ctx: gxl.Context) -> Scene:
    domid = world.host.create_domain(paused=True)
    yield lambda: ctx.domain_shutdown(domid, for_user=9)
    world.host.unpause_domain(domid)
    _completion(ctx, (yield None))
    world.host.destroy_domain(domid)


def domain_reboot_with_a_time_limit(world: World, ctx: gxl.Context) -> Scene:
    domid = world.host.create_domain(paused=True)
    yield lambda: ctx.domain_reboot(domid, timeout=60, for_user=9)
    world.host.unpause_domain(domid)
    _completion(ctx, (yield None))
    world.host.destroy_domain(domid)


def domain_destroy(world: World, ctx: gxl.Context) -> Scene:
    domid = world.host.create_domain()
    yield lambda: ctx.domain_destroy(domid, for_user=9)
    _completion(ctx, (yield None))
    if domid in [info.domid for info in world.host.domains()]:
        world.host.destroy_domain(domid)


def operation_wait(world: World, ctx: gxl.Context) -> Scene:
    """The operation is somebody else's, and goes on whatever happens to who waits for it as well."""
    domid = world.host.create_domain(paused=True)
    operation = ctx.domain_shutdown(domid, wait=False)
    yield operation.wait
    world.host.unpause_domain(domid)
    yield None
    if not ctx.closed:
        operation.wait(10)
        assert operation.rc == 0
    world.host.destroy_domain(domid)


def attempt(call: Callable[[], gxl.Operation]) -> Callable[[], gxl.Operation | None]:
    """What needs more than a simulated host for the real library, which ends it with an error of its own."""

    def attempted() -> gxl.Operation | None:
        try:
            return call()
        except LibxlError:
            return None

    return attempted


def _config(name: str) -> dict[str, Any]:
    return {
        "c_info": {"type": "pv", "name": name},
        "b_info": {"max_memkb": 65536, "target_memkb": 65536, "type.pv": {}},
    }


def _destroy_all_called(world: World, name: str) -> None:
    for info in world.host.domains():
        if world.host.read(f"/local/domain/{info.domid}/name") == name.encode():
            world.host.destroy_domain(info.domid)


def domain_create(world: World, ctx: gxl.Context) -> Scene:
    """With the real library, in a process of its own."""
    yield attempt(lambda: ctx.domain_create(_config("made"), for_user=9))
    _completion(ctx, (yield None), any_rc=not world.in_process)
    _destroy_all_called(world, "made")


def domain_restore(world: World, ctx: gxl.Context) -> Scene:
    """It waits for a stream, which turns out to be none."""
    reader, writer = os.pipe()
    yield attempt(lambda: ctx.domain_restore(reader, _config("restored"), for_user=9))
    os.write(writer, b"no domain\n" * 1000)
    os.close(writer)
    _completion(ctx, (yield None), any_rc=not world.in_process)
    os.close(reader)
    _destroy_all_called(world, "restored")


def domain_suspend(world: World, ctx: gxl.Context) -> Scene:
    domid = world.host.create_domain(paused=True)
    with tempfile.TemporaryFile() as file:
        yield attempt(lambda: ctx.domain_suspend(domid, file.fileno(), for_user=9))
        world.host.unpause_domain(domid)
        _completion(ctx, (yield None), any_rc=not world.in_process)
    world.host.destroy_domain(domid)


def cdrom_insert(world: World, ctx: gxl.Context) -> Scene:
    domid = world.host.create_domain(kind="hvm")
    world.host.add_disk(domid, "hdc")
    yield attempt(lambda: ctx.cdrom_insert(domid, "hdc", None, for_user=9))
    _completion(ctx, (yield None), any_rc=not world.in_process)
    world.host.destroy_domain(domid)


def own_watch(world: World, ctx: gxl.Context) -> Scene:
    """gxl.watch, whose Context comes and goes with the greenlet that watches."""
    domid = world.host.create_domain()
    opened = len(pump._pumps)

    def watch() -> list[gxl.Event]:
        with gxl.watch(domid, engine=world.make_engine, hub=world.hub) as events:
            return list(events)

    yield watch
    world.host.destroy_domain(domid)
    result = yield None
    assert isinstance(result, gevent.GreenletExit | gevent.Timeout) or [type(event) for event in result] == [
        gxl.DomainDeath
    ]
    assert len(pump._pumps) == opened - ctx.closed


SCENES: list[Play] = [
    *(event_wait, event_wait_with_a_time_limit, event_wait_for_an_eject, event_wait_before_another),
    *(expectation, wait_shutdown, watcher, watch_by_name, list_domain, domid_of),
    *(domain_pause, domain_unpause, domain_shutdown, domain_reboot_with_a_time_limit, domain_destroy, operation_wait),
    *(domain_create, domain_restore, domain_suspend, cdrom_insert, own_watch),
]


def strikes_of(scene: Play) -> Iterator[Strike]:
    """Every strike that hits; but few at a wait for a process that takes its time to begin, and lasts many turns."""
    return strikes((0, 3) if scene in (domain_create, domain_restore) else TURNS)
