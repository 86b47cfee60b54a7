# SPDX-License-Identifier: LGPL-2.1-or-later
"""Fault: an asyncio task is cancelled, so and so many turns of the loop after it began to await."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
from interruptions import check_nobody_waits
from leaks import held
from worlds import World

import gxl

HUBS = ("asyncio",)

Awaited = Callable[[gxl.Context, int], Coroutine[Any, Any, object]]


async def an_event(ctx: gxl.Context, domid: int) -> object:
    return await anext(ctx)


async def an_expectation(ctx: gxl.Context, domid: int) -> object:
    async with ctx.expect(gxl.DomainDeath, domid) as death:
        return await death


async def an_expectation_by_name(ctx: gxl.Context, domid: int) -> object:
    async with ctx.expect(gxl.DomainDeath, f"domain-{domid}") as death:
        return await death


async def a_watcher(ctx: gxl.Context, domid: int) -> object:
    async with ctx.watch(domid) as events:
        return [event async for event in events]


async def a_shutdown(ctx: gxl.Context, domid: int) -> object:
    return await ctx.await_shutdown(domid)


async def a_list(ctx: gxl.Context, domid: int) -> object:
    return await ctx.alist_domain()


async def a_domid(ctx: gxl.Context, domid: int) -> object:
    return await ctx.adomid_of(f"domain-{domid}")


async def an_operation(ctx: gxl.Context, domid: int) -> object:
    return await ctx.domain_pause(domid, wait=False)


AWAITED: list[Awaited] = [
    *(an_event, an_expectation, an_expectation_by_name, a_watcher, a_shutdown, a_list, a_domid, an_operation),
]


@asynccontextmanager
async def leaving_nothing(world: World) -> AsyncIterator[None]:
    async with world.open():
        pass
    world.close()
    before, tasks = held(), asyncio.all_tasks()
    yield
    world.close()
    # A thread of a former test's may end meanwhile.
    assert held().items() <= before.items()
    assert asyncio.all_tasks() == tasks


async def _cancelled_after(ctx: gxl.Context, world: World, awaited: Awaited, turns: int) -> bool:
    """Whether the task still ran after so many turns. The death of its domain is had by the task, or by the next."""
    domid = world.host.create_domain()
    world.host.write(f"/local/domain/{domid}/name", f"domain-{domid}")
    evgen = ctx.evenable_domain_death(domid)
    task = asyncio.ensure_future(awaited(ctx, domid))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    world.host.destroy_domain(domid)
    for _ in range(turns):
        await asyncio.sleep(0)
    ran = task.cancel()
    (result,) = await asyncio.gather(task, return_exceptions=True)
    assert ran or not isinstance(result, asyncio.CancelledError)
    if not isinstance(result, gxl.DomainDeath) or awaited is not an_event:
        event = await anext(ctx)
        assert isinstance(event, gxl.DomainDeath)
        assert event.domid == domid
    await ctx.alist_domain()
    assert ctx.event_check() is None
    evgen.disable()
    while ctx._pump.operations:
        await asyncio.sleep(0)
    check_nobody_waits(ctx)
    return ran


@pytest.mark.parametrize("awaited", AWAITED, ids=lambda awaited: awaited.__name__)
def test_a_cancellation_loses_and_leaves_nothing(world: World, awaited: Awaited) -> None:
    async def main() -> None:
        async with asyncio.timeout(60), leaving_nothing(world):
            ctx = world.open()
            # Each turn up to the one in which it was done before; in between, the one in which it was woken.
            for turns in range(200):
                if not await _cancelled_after(ctx, world, awaited, turns):
                    break
            else:
                raise AssertionError("it never ended by itself")
            await ctx.aclose()

    asyncio.run(main())


@pytest.mark.parametrize("turns", range(4))
def test_a_close_that_is_cancelled_lets_go_of_the_loop(world: World, turns: int) -> None:
    async def main() -> None:
        ctx = world.open()
        operation = ctx.domain_pause(world.host.create_domain(), wait=False)
        task = asyncio.ensure_future(ctx.aclose())
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await ctx.aclose()  # it may have been cancelled before its first step
        assert ctx._pump.freed
        assert operation.done
        check_nobody_waits(ctx)
        world.contexts.remove(ctx)

    asyncio.run(main())
