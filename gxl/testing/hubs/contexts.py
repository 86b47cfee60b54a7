# SPDX-License-Identifier: LGPL-2.1-or-later
"""Cases for a Context at the provider's hub: on a simulated host, with either engine.

Where the loop runs coroutines, what waits is awaited; elsewhere it blocks.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from zope.interface import implementer

import gxl
from gxl import engines
from gxl.errors import Disaster, EngineUnavailable, LibxlError
from gxl.interfaces import ICoroutineBinding, IEngine, IEventHooks
from gxl.simhost import preload
from gxl.simhost.launch import launch
from gxl.testing.hubs.rig import Provider


class World:
    """A simulated host, an engine that sees it, and the provider under test."""

    def __init__(self, host: Any, make_engine: Callable[[], IEngine], provider: Provider) -> None:
        self.host = host
        self._make_engine = make_engine
        self._hub = provider.make_hub()
        self._patience = provider.patience

    @classmethod
    @contextlib.contextmanager
    def of(cls, engine: str, provider: Provider) -> Iterator[World]:
        """With the engine "embedded" or "libxl". Skips the test where the real library can't run."""
        if reason := why_not(engine):
            pytest.skip(reason)
        if engine == "embedded":
            from gxl.engines.embedded import EmbeddedEngine

            with gxl.SimHost() as host:
                yield cls(host, lambda: EmbeddedEngine(host), provider)
            return
        served, variables, _ = _libxl()
        with _environment(variables):
            served.reset()
            yield cls(served, lambda: engines.provide("libxl"), provider)

    @contextlib.asynccontextmanager
    async def context(self) -> AsyncIterator[gxl.Context]:
        """An open Context."""
        ctx = gxl.Context(engine=self._make_engine(), hub=self._hub)
        try:
            yield ctx
        finally:
            await self.close(ctx)

    @staticmethod
    def awaits(ctx: gxl.Context) -> bool:
        """Whether what waits has to be awaited."""
        return ICoroutineBinding.providedBy(ctx._pump.binding)

    async def close(self, ctx: gxl.Context) -> None:
        """Close it, which may have to wait."""
        if self.awaits(ctx):
            await ctx.aclose(self._patience)
        else:
            ctx.close(self._patience)

    async def event(self, ctx: gxl.Context) -> gxl.Event:
        """The next event of the Context's queue."""
        return await anext(ctx) if self.awaits(ctx) else ctx.event_wait(timeout=self._patience)

    async def events(self, ctx: gxl.Context, *domids: int) -> list[gxl.Event]:
        """All that a watcher of these domains says."""
        watcher = ctx.watch(*domids, timeout=self._patience)
        return [event async for event in watcher] if self.awaits(ctx) else list(watcher)

    async def result(self, ctx: gxl.Context, waited_for: Any) -> Any:
        """What an Operation or an expectation comes to."""
        return await waited_for if self.awaits(ctx) else waited_for.wait(self._patience)


def why_not(engine: str) -> str:
    """Why no case can run with this engine here; empty if they can."""
    return "" if engine == "embedded" else _libxl()[2]


@functools.cache
def _libxl() -> tuple[Any, dict[str, str], str]:
    """A host for the real library, and the variables by which it finds it; or why there can't be one."""
    try:
        library = str(preload.library())
    except OSError as error:
        return None, {}, f"libxenlight needs a library to run on a simulated host: {error}"
    if library not in os.environ.get("LD_PRELOAD", ""):
        return None, {}, f"libxenlight runs on a simulated host only with LD_PRELOAD={library}"
    stack = contextlib.ExitStack()
    host, variables = stack.enter_context(launch())
    pid = os.getpid()
    atexit.register(lambda: stack.close() if os.getpid() == pid else None)
    with _environment(variables):
        try:
            engines.provide("libxl").ctx_free()
        except EngineUnavailable as error:
            return None, {}, f"libxenlight can't be used here: {error}"
    return host, variables, ""


@contextlib.contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


async def a_shutdown_and_a_death_arrive_as_events(world: World) -> None:
    async with world.context() as ctx:
        domid = world.host.create_domain("web1")
        ctx.evenable_domain_death(domid, user=7)
        world.host.shutdown_domain(domid, 3)
        shutdown = await world.event(ctx)
        assert isinstance(shutdown, gxl.DomainShutdown)
        assert (shutdown.domid, shutdown.shutdown_reason, shutdown.for_user) == (domid, 3, 7)
        world.host.destroy_domain(domid)
        assert isinstance(await world.event(ctx), gxl.DomainDeath)


async def the_deaths_of_many_are_each_reported_once(world: World) -> None:
    async with world.context() as ctx:
        domids = [world.host.create_domain() for _ in range(50)]
        for domid in domids:
            ctx.evenable_domain_death(domid)
        for domid in domids:
            world.host.destroy_domain(domid)
        events = [await world.event(ctx) for _ in domids]
        assert sorted(event.domid for event in events) == domids
        assert ctx.event_check() is None


async def a_watcher_ends_with_its_domains(world: World) -> None:
    async with world.context() as ctx:
        one, two = world.host.create_domain(), world.host.create_domain()
        world.host.shutdown_domain(two, 1)
        ctx.domain_destroy(one, wait=False)
        ctx.domain_destroy(two, wait=False)
        events = await world.events(ctx, one, two)
        deaths = [event.domid for event in events if isinstance(event, gxl.DomainDeath)]
        assert sorted(deaths) == [one, two]


async def a_domain_that_appears_later_is_followed(world: World) -> None:
    # Told by gxl's own connection to xenstored, which the hub watches beside libxl's fds.
    async with world.context() as ctx:
        with ctx.follow_domains():
            domid = world.host.create_domain()
            world.host.shutdown_domain(domid, 2)
            event = await world.event(ctx)
            assert (type(event), event.domid) == (gxl.DomainShutdown, domid)


async def an_eject_arrives_under_the_callers_name_for_the_disk(world: World) -> None:
    async with world.context() as ctx:
        domid = world.host.create_domain()
        world.host.add_disk(domid, "hdc")
        with ctx.expect(gxl.DiskEject, domid, vdev="hdc") as expected:
            world.host.eject_disk(domid, "hdc")
            event = await world.result(ctx, expected)
            assert isinstance(event, gxl.DiskEject)
            assert event.vdev == "hdc"


async def an_operation_that_forks_ends_and_leaves_no_child(world: World) -> None:
    before = _zombies()
    async with world.context() as ctx:
        if ctx._pump.binding.childproc is None:
            pytest.skip("this provider can't watch children here")
        for _ in range(3):
            domid = world.host.create_domain()
            await world.result(ctx, ctx.domain_destroy(domid, wait=False))
        with pytest.raises(LibxlError):
            await world.result(ctx, ctx.domain_destroy(30000, wait=False))
        assert [info.domid for info in world.host.domains()] == [0]
    assert _zombies() <= before


async def an_operation_with_a_timeout_of_libxls_can_be_aborted(world: World) -> None:
    # A paused guest does not answer: libxl gives it a minute, by a timeout that it registers and then takes back.
    async with world.context() as ctx:
        domid = world.host.create_domain()
        world.host.pause_domain(domid)
        operation = ctx.domain_shutdown(domid, wait=False)
        assert not operation.done
        assert operation.abort()
        with pytest.raises(LibxlError):
            await world.result(ctx, operation)


async def closing_waits_for_what_is_pending(world: World) -> None:
    async with world.context() as ctx:
        domid = world.host.create_domain()
        world.host.pause_domain(domid)
        operation = ctx.domain_shutdown(domid, wait=False)
        await world.close(ctx)
        assert operation.done
        assert ctx.closed
        assert not ctx._pump.abandoned


async def callbacks_run_in_order_and_outside_libxl(world: World) -> None:
    async with world.context() as ctx:
        seen: list[int] = []

        @implementer(IEventHooks)
        class Hooks:
            event_occurs_mask = gxl.mask(gxl.DomainDeath)
            disaster = None

            @staticmethod
            def event_occurs(event: gxl.Event) -> None:
                assert ctx.engine.list_domain()
                seen.append(event.domid)
                if len(seen) == 5:
                    # An event of another type goes to the queue, and whoever waits there.
                    ctx.domain_pause(other, wait=False, for_user=1)

        ctx.event_register_callbacks(Hooks())
        other = world.host.create_domain()
        domids = [world.host.create_domain() for _ in range(5)]
        for domid in domids:
            ctx.evenable_domain_death(domid)
        for domid in domids:
            world.host.destroy_domain(domid)
        while not isinstance(await world.event(ctx), gxl.OperationComplete):
            pass
        assert seen == domids


async def two_contexts_hear_of_the_same_death(world: World) -> None:
    async with world.context() as one, world.context() as two:
        domid = world.host.create_domain()
        for ctx in (one, two):
            ctx.evenable_domain_death(domid)
        world.host.destroy_domain(domid)
        for ctx in (one, two):
            assert (await world.event(ctx)).domid == domid


async def whoever_waits_learns_that_xenstored_died(world: World) -> None:
    async with world.context() as ctx:
        ctx.evenable_domain_death(world.host.create_domain())
        world.host.drop_connections()
        with pytest.raises(Disaster):
            await world.event(ctx)


async def a_context_leaves_no_fd_behind(world: World) -> None:
    async with world.context() as ctx:  # the loop may open some of its own for the first
        await world.result(ctx, ctx.domain_pause(world.host.create_domain(), wait=False))
    before = sorted(os.listdir("/proc/self/fd"))
    async with world.context() as ctx:
        domid = world.host.create_domain()
        ctx.evenable_domain_death(domid)
        if ctx._pump.binding.childproc is not None:
            await world.result(ctx, ctx.domain_destroy(domid, wait=False))
    assert sorted(os.listdir("/proc/self/fd")) == before


def _zombies() -> set[str]:
    found = set()
    with open("/proc/thread-self/children") as children:
        for pid in children.read().split():
            with contextlib.suppress(FileNotFoundError), open(f"/proc/{pid}/stat") as stat:
                if stat.read().rpartition(")")[2].split()[0] == "Z":
                    found.add(pid)
    return found
