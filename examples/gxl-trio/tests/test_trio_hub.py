# SPDX-License-Identifier: LGPL-2.1-or-later
"""The trio provider passes the suite, and is found by its name."""

from __future__ import annotations

import os

import pytest
import trio
from gxl_trio import TrioHub

import gxl
from gxl.engines.embedded import EmbeddedEngine
from gxl.hubhooks import choose, survey
from gxl.testing import HubProviderTests
from gxl.testing.hubs.contexts import why_not
from gxl.testing.hubs.rig import Main


class TestTrioHub(HubProviderTests):
    def make_hub(self) -> TrioHub:
        return TrioHub()

    def run(self, main: Main) -> None:
        trio.run(main)


@pytest.mark.skipif("CI" not in os.environ, reason="without libxenlight the suite is run all the same, but in CI")
def test_where_everything_must_be_there_the_real_library_is() -> None:
    assert not why_not("libxl")


def test_the_entry_point_is_found() -> None:
    assert isinstance(choose("trio"), TrioHub)
    (found,) = [found for found in survey("trio") if found.name == "trio"]
    assert (found.origin, found.problem) == ("gxl-trio", "")


def test_tasks_of_one_nursery_wait_side_by_side() -> None:
    async def follow(ctx: gxl.Context, domid: int, deaths: list[int]) -> None:
        async for event in ctx.watch(domid):
            assert isinstance(event, gxl.DomainDeath)
            deaths.append(event.domid)

    async def main() -> list[int]:
        deaths: list[int] = []
        with gxl.SimHost() as host, trio.fail_after(10):
            async with gxl.Context(engine=EmbeddedEngine(host), hub="trio") as ctx:
                domids = [host.create_domain() for _ in range(10)]
                async with trio.open_nursery() as nursery:
                    for domid in domids:
                        nursery.start_soon(follow, ctx, domid, deaths)
                    await trio.sleep(0)
                    for domid in domids:
                        nursery.start_soon(destroy, ctx, domid)
        return sorted(deaths)

    async def destroy(ctx: gxl.Context, domid: int) -> None:
        await ctx.domain_destroy(domid, wait=False)

    assert trio.run(main) == list(range(1, 11))


def test_a_run_may_end_though_there_is_always_more_to_call(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        with gxl.SimHost() as host:
            async with gxl.Context(engine=EmbeddedEngine(host), hub="trio") as ctx:
                binding = ctx._pump.binding

                def again() -> None:
                    calls.append(None)
                    binding.call_soon(again)

                again()

    calls: list[None] = []
    trio.run(main)
    assert len(calls) > 1
    assert not caplog.records
