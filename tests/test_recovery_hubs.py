# SPDX-License-Identifier: LGPL-2.1-or-later
"""Recovery where coroutines wait, where several threads do, and as docs/recovery.md shows it; against each engine."""

from __future__ import annotations

import asyncio
import re
import threading
from pathlib import Path
from typing import Any

import gevent
import pytest
from outages import soon, turn
from worlds import World

import gxl
from gxl import DomainDeath, DomainShutdown, Resynced

pytestmark = pytest.mark.usefixtures(soon.__name__)
PAGE = Path(__file__).parent.parent / "docs" / "recovery.md"


def test_coroutines_go_on_waiting(world: World) -> None:
    domid = world.host.create_domain()

    async def main() -> list[type[gxl.Event]]:
        async with gxl.Context(engine=world.make_engine, hub="asyncio", recover=True) as ctx:
            watcher = ctx.watch(domid)
            waiting = asyncio.ensure_future(anext(watcher))
            await asyncio.sleep(0)
            with world.host.down():
                while ctx.outage is None:
                    await asyncio.sleep(0.001)
                world.host.destroy_domain(domid)
            return [type(await waiting), *[type(event) async for event in watcher]]

    assert asyncio.run(asyncio.wait_for(main(), 20)) == [Resynced, DomainDeath]


def test_threads_without_a_loop_go_on_waiting(world: World) -> None:
    world.hub = "poll"
    ctx = world.open(recover=True)
    domids = [world.host.create_domain() for _ in range(3)]
    for domid in domids:
        ctx.evenable_domain_death(domid)
    told: dict[int, gxl.Event] = {}
    threads = [
        threading.Thread(target=lambda domid=domid: told.update({domid: ctx.event_wait(domid=domid, timeout=20)}))
        for domid in domids
    ]
    for thread in threads:
        thread.start()
    with world.host.down():
        turn(ctx, lambda: ctx.outage is not None)
        for domid in domids:
            world.host.destroy_domain(domid)
    for thread in threads:
        thread.join(20)
    assert {domid: type(event) for domid, event in told.items()} == dict.fromkeys(domids, DomainDeath)


def test_what_the_page_shows_works(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    domid = world.host.create_domain("web1")
    block = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)[0]
    monkeypatch.setattr(gxl.Context, "__init__", _on(world))
    scope: dict[str, Any] = {}
    exec(compile(block, str(PAGE), "exec"), scope)
    reporting = gevent.spawn(scope["report"], domid)
    gevent.sleep(0.1)
    with world.host.down():
        world.host.shutdown_domain(domid, 0)
        gevent.sleep(0.05)
    gevent.sleep(0.1)
    world.host.destroy_domain(domid)
    reporting.get(timeout=20)
    said = capsys.readouterr().out
    assert said.startswith("cut off from Xen for a while: ")
    assert DomainShutdown.__name__ in said
    assert said.endswith("web1 is gone\n")


def _on(world: World) -> object:
    original = gxl.Context.__init__

    def init(self: gxl.Context, *args: object, **how: object) -> None:
        original(self, world.make_engine, **how)  # type: ignore[arg-type]  # passed on as it came

    return init
