# SPDX-License-Identifier: LGPL-2.1-or-later
"""The asyncio hub, on asyncio's own loop and on uvloop: the conformance suite, and what is awaited."""

from __future__ import annotations

import asyncio

from requirements import Requirements

from gxl.hubhooks.asyncio import AsyncioHub
from gxl.testing.hubs import HubProviderTests
from gxl.testing.hubs.rig import Main


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
            runner.run(main())
