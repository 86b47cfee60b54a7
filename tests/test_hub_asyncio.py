# SPDX-License-Identifier: LGPL-2.1-or-later
"""The asyncio hub, on asyncio's own loop and on uvloop: the conformance suite, and what is awaited; on each engine."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import time
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

import pytest
from requirements import Requirements
from worlds import World
from zope.interface import implementer

import gxl
from gxl import DomainDeath, DomainShutdown
from gxl.errors import DomainNotFound
from gxl.hubhooks.asyncio import AsyncioHub
from gxl.interfaces import IEventHooks
from gxl.testing.hubs import HubProviderTests
from gxl.testing.hubs.rig import Main

HUBS = ("asyncio",)


class TestAsyncioHub(HubProviderTests):
    def make_hub(self) -> AsyncioHub:
        return AsyncioHub()

    def run(self, main: Main) -> None:
        asyncio.run(main())


class TestAsyncioHubOnUvloop(HubProviderTests):
    def make_hub(self) -> AsyncioHub:
        return AsyncioHub()

    def run(self, main: Main) -> None:
        uvloop = Requirements().module("uvloop")
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            assert isinstance(runner.get_loop(), uvloop.Loop)
            runner.run(main())

    def test_the_hub_says_that_it_is_on_uvloop(self) -> None:
        versions: list[str] = []

        async def main() -> None:
            versions.append(self.make_hub().version)

        self.run(main)
        assert versions == ["asyncio, loop uvloop.Loop"]


Test = Callable[[World, gxl.Context], Coroutine[Any, Any, None]]


def in_a_loop(test: Test) -> Callable[[World], None]:
    """Makes a pytest test of a coroutine function, with a Context that is closed at its end."""

    def run(world: World) -> None:
        async def main() -> None:
            async with asyncio.timeout(20), opened(world) as ctx:
                await test(world, ctx)

        asyncio.run(main())

    run.__name__ = test.__name__
    return run


@contextlib.asynccontextmanager
async def opened(world: World) -> AsyncIterator[gxl.Context]:
    async with gxl.Context(engine=world.engine(), hub="asyncio") as ctx:
        yield ctx


@in_a_loop
async def test_an_expectation_is_awaited(world: World, ctx: gxl.Context) -> None:
    domid = world.host.create_domain()
    with ctx.expect(DomainDeath, domid) as death:
        await ctx.domain_destroy(domid, wait=False)
        event = await death
    assert isinstance(event, DomainDeath)
    assert await death is event


@in_a_loop
async def test_an_operation_is_awaited_by_several_and_raises_libxls_error_in_each(
    world: World, ctx: gxl.Context
) -> None:
    operation = ctx.domain_destroy(30000, wait=False)

    async def attempt() -> None:
        await operation

    outcomes = await asyncio.gather(attempt(), attempt(), attempt(), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [DomainNotFound] * 3
    assert operation.rc == DomainNotFound.code


@in_a_loop
async def test_a_cancelled_task_takes_nothing_with_it(world: World, ctx: gxl.Context) -> None:
    domid = world.host.create_domain()
    world.host.pause_domain(domid)  # so that it does not answer yet
    operation = ctx.domain_shutdown(domid, wait=False)
    ctx.evenable_domain_death(domid)
    watcher = ctx.watch(domid)

    async def wait_for(what: Awaitable[object]) -> object:
        return await what

    tasks = [asyncio.create_task(wait_for(what)) for what in (operation, anext(watcher), anext(ctx))]
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [asyncio.CancelledError] * 3
    world.host.unpause_domain(domid)
    await operation
    assert isinstance(await anext(watcher), DomainShutdown)
    assert isinstance(await anext(ctx), DomainShutdown)


@in_a_loop
async def test_an_event_that_a_cancelled_task_was_given_goes_to_the_next(world: World, ctx: gxl.Context) -> None:
    async def take() -> gxl.Event:
        return await anext(ctx)

    first, second = asyncio.create_task(take()), asyncio.create_task(take())
    await asyncio.sleep(0)
    # Given to the first at once; it is cancelled before it runs again.
    ctx.evenable_domain_death(30000)
    first.cancel()
    assert isinstance(await second, DomainDeath)
    with pytest.raises(asyncio.CancelledError):
        await first


@in_a_loop
async def test_a_watcher_is_iterated_by_async_for_until_its_domains_are_gone(world: World, ctx: gxl.Context) -> None:
    one, two = world.host.create_domain(), world.host.create_domain()
    uuid = world.host.domain_info(two).uuid
    watcher = ctx.watch(one, uuid, str(uuid))

    async def end() -> None:
        for domid in (one, two):
            await asyncio.sleep(0.001)
            await ctx.domain_destroy(domid, wait=False)

    ending = asyncio.create_task(end())
    assert {event.domid async for event in watcher} == {one, two}
    await ending


@in_a_loop
async def test_a_watchers_timeout_ends_the_iteration_and_not_before(world: World, ctx: gxl.Context) -> None:
    begin = time.monotonic()
    assert [event async for event in ctx.watch(world.host.create_domain(), timeout=0.05)] == []
    assert 0.05 <= time.monotonic() - begin < 5
    assert not ctx._pump.feeds.by_token


@in_a_loop
async def test_the_loop_runs_on_while_tasks_wait(world: World, ctx: gxl.Context) -> None:
    domid = world.host.create_domain()
    ctx.evenable_domain_death(domid)
    waiting = asyncio.create_task(anext(ctx))
    for _ in range(20):
        await asyncio.sleep(0.001)
    assert not waiting.done()
    world.host.destroy_domain(domid)
    assert isinstance(await waiting, DomainDeath)


@in_a_loop
async def test_whatever_would_block_names_what_to_await_instead_and_changes_nothing(
    world: World, ctx: gxl.Context
) -> None:
    domid = world.host.create_domain("web1")
    operation = ctx.domain_pause(domid, wait=False)
    await operation
    watcher = ctx.watch(domid)
    with ctx.expect(DomainDeath, domid) as expectation:
        attempts: list[tuple[Callable[[], object], str]] = [
            (ctx.event_wait, "async for event in ctx"),
            (lambda: ctx.event_wait(timeout=0), "async for event in ctx"),
            (lambda: next(watcher), "async for"),
            (operation.wait, "await the Operation"),
            (lambda: expectation.wait(1), "await the expectation"),
            (lambda: ctx.wait_shutdown(domid), "await ctx.await_shutdown"),
            (lambda: ctx.domain_destroy(domid), "wait=False"),
            (lambda: ctx.domain_destroy("web1", wait=False), r"await ctx.adomid_of\('web1'\)"),
            (lambda: ctx.evenable_domain_death("web1"), r"await ctx.adomid_of\('web1'\)"),
            (lambda: ctx.expect(DomainDeath, "web1").__enter__(), r"await ctx.adomid_of\('web1'\)"),
            (ctx.list_domain, "await ctx.alist_domain"),
            (ctx.close, "ctx.aclose"),
            (ctx.__enter__, "async with"),
        ]
        for attempt, instead in attempts:
            with pytest.raises(gxl.MisuseError, match=instead):
                attempt()
    assert not ctx.closed
    assert not ctx._pump.operations
    assert [info.domid for info in world.host.domains()] == [0, domid]


@in_a_loop
async def test_coroutines_await_names(world: World, ctx: gxl.Context) -> None:
    one, two = world.host.create_domain("one"), world.host.create_domain("two")
    assert [(domain.domid, domain.name) for domain in await ctx.alist_domain()][1:] == [(one, "one"), (two, "two")]
    assert await ctx.adomid_of("two") == await ctx.adomid_of(two) == two
    uuid = world.host.domain_info(one).uuid
    assert await ctx.adomid_of(uuid) == await ctx.adomid_of(str(uuid)) == ctx.domid_of(uuid) == one
    with pytest.raises(LookupError, match="'three'"):
        await ctx.adomid_of("three")
    async with ctx.watch("one") as early, ctx.expect(DomainDeath, "two") as death:
        late = ctx.watch("one", two)
        ending = asyncio.create_task(ctx.await_shutdown("two"))
        await asyncio.sleep(0.01)
        await ctx.domain_destroy(one, wait=False)
        await ctx.domain_destroy(two, wait=False)
        assert (await death).name == "two"
        assert [event.name async for event in early] == ["one"]
        assert sorted([event.domid async for event in late]) == [one, two]
        assert isinstance(await ending, DomainDeath)
    assert not ctx._pump.feeds.by_token
    assert not ctx._pump.enders


@in_a_loop
async def test_a_name_that_means_nothing_surfaces_where_it_is_awaited(world: World, ctx: gxl.Context) -> None:
    watcher = ctx.watch("nobody")
    with pytest.raises(LookupError, match="'nobody'"):
        await anext(watcher)
    with pytest.raises(LookupError, match="'nobody'"):
        async with ctx.watch("nobody"):
            pass
    with pytest.raises(LookupError, match="'nobody'"):
        async with ctx.expect(DomainDeath, "nobody"):
            pass
    assert [event async for event in ctx.watch(world.host.create_domain("web1"), "web1", timeout=0.05)] == []
    assert not ctx._pump.feeds.by_token
    assert not ctx._pump.enders


@in_a_loop
async def test_callbacks_may_be_coroutine_functions_and_run_one_after_the_other(world: World, ctx: gxl.Context) -> None:
    seen: list[str] = []
    all_seen = asyncio.Event()
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context))

    @implementer(IEventHooks)
    class Hooks:
        event_occurs_mask = gxl.mask(DomainDeath)
        disaster = None

        @staticmethod
        async def event_occurs(event: gxl.Event) -> None:
            seen.append(f"begin {event.domid}")
            await ctx.domain_pause(other, wait=False)
            seen.append(f"end {event.domid}")
            if event.domid == domids[0]:
                raise LookupError("of the application's")
            if event.domid == domids[-1]:
                all_seen.set()

    other = world.host.create_domain()
    ctx.event_register_callbacks(Hooks())
    domids = [world.host.create_domain() for _ in range(4)]
    for domid in domids:
        ctx.evenable_domain_death(domid)
    for domid in domids:
        world.host.destroy_domain(domid)
    await all_seen.wait()
    assert seen == [f"{word} {domid}" for domid in domids for word in ("begin", "end")]
    assert [type(complaint["exception"]) for complaint in complaints] == [LookupError]


@in_a_loop
async def test_another_thread_is_refused_and_told_how_to_call(world: World, ctx: gxl.Context) -> None:
    def attempt() -> None:
        with pytest.raises(gxl.MisuseError, match="call_soon_threadsafe"):
            ctx.event_check()

    await asyncio.to_thread(attempt)


@in_a_loop
async def test_the_death_of_xenstored_ends_every_wait(world: World, ctx: gxl.Context) -> None:
    watcher = ctx.watch(world.host.create_domain())
    waiting = [asyncio.create_task(anext(what)) for what in (ctx, watcher)]
    await asyncio.sleep(0)
    world.host.drop_connections()
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [gxl.Disaster] * 2


@in_a_loop
async def test_dozens_of_tasks_create_destroy_and_wait_at_once(world: World, ctx: gxl.Context) -> None:
    async def work(number: int) -> list[int]:
        domid = world.host.create_domain()
        watcher = ctx.watch(domid, types=[DomainDeath])
        await ctx.domain_destroy(domid, wait=False)
        return [event.domid - domid async for event in watcher]

    assert await asyncio.gather(*map(work, range(40))) == [[0]] * 40


def test_closing_ends_async_for_and_waits_for_what_is_pending(world: World) -> None:
    async def main() -> None:
        async with opened(world) as ctx:
            domid = world.host.create_domain()
            world.host.pause_domain(domid)
            operation = ctx.domain_shutdown(domid, wait=False)

            async def all_events() -> list[gxl.Event]:
                return [event async for event in ctx]

            iterating = asyncio.create_task(all_events())
            await asyncio.sleep(0)
        assert await iterating == []
        assert operation.done
        assert ctx.closed
        assert not ctx._pump.abandoned
        await ctx.aclose()

    asyncio.run(main())


def test_what_does_not_end_in_time_is_abandoned_with_a_warning(world: World) -> None:
    async def main() -> None:
        ctx = gxl.Context(engine=world.engine(), hub="asyncio")
        domid = world.host.create_domain()
        world.host.pause_domain(domid)
        ctx.engine.domain_shutdown(domid, gxl.AsyncHow(for_event=1))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            await ctx.aclose(timeout=0.02)
        assert [entry.category for entry in caught] == [ResourceWarning]
        assert ctx._pump.abandoned

    asyncio.run(main())


def test_outside_its_loop_a_context_blocks_and_runs_it(world: World) -> None:
    async def start() -> tuple[gxl.Context, gxl.Operation]:
        ctx = gxl.Context(engine=world.engine(), hub="asyncio")
        return ctx, ctx.domain_destroy(world.host.create_domain(), wait=False)

    with asyncio.Runner() as runner:
        ctx, operation = runner.run(start())
        operation.wait(10)
        with pytest.raises(gxl.WaitTimeout):
            ctx.event_wait(timeout=0.01)
        ctx.close()
    assert operation.rc == 0


def test_without_a_loop_there_is_no_binding(world: World) -> None:
    engine = world.engine()
    with pytest.raises(gxl.MisuseError, match="coroutine"):
        gxl.Context(engine=engine, hub="asyncio")
    engine.ctx_free()


def test_detection_takes_asyncio_in_a_running_loop(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GXL_HUB", raising=False)

    async def main() -> None:
        async with gxl.Context(engine=world.engine()) as ctx:
            domid = world.host.create_domain()
            await ctx.domain_destroy(domid, wait=False)

    asyncio.run(main())


IN_A_PATCHED_PROCESS = """
from gevent import monkey; monkey.patch_all()
import asyncio, gevent
import gxl
from gxl.engines.embedded import EmbeddedEngine
gevent.get_hub().loop.install_sigchld()  # as gevent.subprocess does: from here on the loop reaps every child
async def main():
    with gxl.SimHost() as host:
        async with gxl.Context(engine=EmbeddedEngine(host), hub="asyncio") as ctx:
            for _ in range(5):
                host.create_domain("web1")
                async with ctx.expect(gxl.DomainDeath, "web1") as death:
                    await ctx.domain_destroy(await ctx.adomid_of("web1"), wait=False)
                    print((await death).name)
asyncio.run(asyncio.wait_for(main(), 20))
"""


def test_it_works_where_gevent_has_patched_the_process_and_reaps_every_child() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", IN_A_PATCHED_PROCESS], capture_output=True, text=True, timeout=60, check=False
    )
    assert (ran.stdout, ran.returncode, ran.stderr) == ("web1\n" * 5, 0, "")
