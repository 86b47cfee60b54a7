# SPDX-License-Identifier: LGPL-2.1-or-later
"""gxl.watch, which opens a Context of its own and closes it: the same everywhere, against each engine."""

from __future__ import annotations

import asyncio
import gc
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
from gevent.monkey import is_module_patched
from worlds import World, outcome

import gxl
from gxl import DomainDeath, DomainShutdown
from gxl.interfaces import IEngine

HUBS = ("gevent", "poll")


class Engines:
    """Makes engines, and tells what has become of them."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.made: list[IEngine] = []

    def __call__(self) -> IEngine:
        self.made.append(self._world.engine())
        return self.made[-1]

    def all_closed(self) -> bool:
        """Whether each was freed, which forbids all use of it."""
        for engine in self.made:
            try:
                engine.list_domain()
            except gxl.MisuseError:
                continue
            return False
        return bool(self.made)


@pytest.fixture
def engines(world: World) -> Iterator[Engines]:
    engines = Engines(world)
    yield engines
    assert engines.all_closed()


def a_short_life(world: World, domid: int) -> None:
    world.host.shutdown_domain(domid, 3)
    world.host.destroy_domain(domid)


def program(world: World, engines: Engines, domains: list[Any], hub: str | None) -> list[gxl.Event]:
    """What an application writes."""
    found = []
    for event in gxl.watch(*domains, engine=engines(), hub=hub):
        found.append(event)
        if isinstance(event, DomainShutdown):
            world.host.destroy_domain(event.domid)
    return found


def in_the_main_program(f: Callable[[], Any]) -> Any:
    return f()


def in_a_greenlet(f: Callable[[], Any]) -> Any:
    return outcome(gevent.spawn(f))


def in_a_thread(f: Callable[[], Any]) -> Any:
    result = []
    thread = threading.Thread(target=lambda: result.append(f()))
    thread.start()
    thread.join(20)
    return result[0]


@pytest.mark.parametrize("where", [in_the_main_program, in_a_greenlet, in_a_thread])
def test_the_same_loop_works_everywhere(
    world: World, engines: Engines, where: Callable[[Callable[[], Any]], Any], leaves_nothing: None
) -> None:
    one, two = world.host.create_domain("one"), world.host.create_domain("two")
    for domid in (one, two):
        world.host.shutdown_domain(domid, 3)
    # In a thread of a process that gevent has not patched, there is another hub, or none.
    patched = is_module_patched("threading")
    hub = "poll" if where is in_a_thread and not patched else world.hub
    if world.hub == "poll" and where is in_a_greenlet:
        hub = "gevent"
    events = where(lambda: program(world, engines, ["one", world.host.domain_info(two).uuid], hub))
    assert [(type(event), event.name) for event in events[:2]] == [(DomainShutdown, "one"), (DomainShutdown, "two")]
    assert [(type(event), event.domid) for event in events[2:]] == [(DomainDeath, one), (DomainDeath, two)]


def test_the_hub_is_the_one_that_runs_here(world: World, engines: Engines, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GXL_HUB", raising=False)
    domid = world.host.create_domain()
    world.host.shutdown_domain(domid, 0)
    assert len(in_a_greenlet(lambda: program(world, engines, [domid], None))) == 2


def test_under_asyncio_it_is_iterated_by_async_for(world: World, engines: Engines) -> None:
    async def main() -> None:
        domid = world.host.create_domain("one")
        world.host.shutdown_domain(domid, 3)
        found = []
        async for event in gxl.watch("one", engine=engines(), hub="asyncio"):
            found.append(type(event))
            if isinstance(event, DomainShutdown):
                world.host.destroy_domain(domid)
        assert found == [DomainShutdown, DomainDeath]
        assert engines.all_closed()
        early = world.host.create_domain("early")
        async with gxl.watch(engine=engines(), hub="asyncio", types=DomainDeath) as events:
            with pytest.raises(gxl.MisuseError, match="async for"):
                next(events)
            with pytest.raises(gxl.MisuseError, match="async with"):
                events.__enter__()
            a_short_life(world, early)
            assert (await anext(events)).name == "early"
        for attempt in ("anext", "aenter"):
            events = gxl.watch("nobody", engine=engines(), hub="asyncio")
            with pytest.raises(LookupError, match="'nobody'"):
                await (anext(events) if attempt == "anext" else events.__aenter__())
        with pytest.raises(TypeError):
            gxl.watch(b"web1", engine=engines(), hub="asyncio")  # type: ignore[arg-type]  # that it is refused is what is tested

    asyncio.run(asyncio.wait_for(main(), 20))


def test_a_with_block_closes_the_context_however_it_is_left(world: World, engines: Engines) -> None:
    world.host.shutdown_domain(world.host.create_domain("early"), 1)
    with gxl.watch(engine=engines(), hub=world.hub) as events:
        for event in events:
            assert isinstance(event, DomainShutdown)
            break
    assert engines.all_closed()
    with pytest.raises(ZeroDivisionError), gxl.watch(engine=engines(), hub=world.hub):
        1 / 0  # noqa: B018  that it raises is what is tested


def test_the_timeout_ends_the_iteration_and_closes_the_context(world: World, engines: Engines) -> None:
    events = gxl.watch(engine=engines(), hub=world.hub, timeout=0.02)
    assert list(events) == []
    assert list(events) == []
    assert events.lost == 0


def test_a_lost_store_ends_the_iteration_with_an_error_and_closes_the_context(world: World, engines: Engines) -> None:
    events = gxl.watch(engine=engines(), hub=world.hub)
    world.host.drop_connections()
    with pytest.raises(gxl.Disaster):
        next(events)


def test_it_recovers_by_default_where_it_can(world: World, engines: Engines) -> None:
    world.host.shutdown_domain(world.host.create_domain("early"), 1)
    with gxl.watch("early", engine=engines, hub=world.hub) as events:
        assert next(events).name == "early"
        world.host.drop_connections()
        assert isinstance(next(events), gxl.Resynced)
    events = gxl.watch(engine=engines, hub=world.hub, recover=False, types=DomainDeath)
    world.host.drop_connections()
    with pytest.raises(gxl.Disaster):
        next(events)


@pytest.mark.parametrize(
    ("arguments", "how", "error"),
    [
        (["nobody"], {}, LookupError),
        ([-1], {}, ValueError),
        ([1.5], {}, TypeError),
        ([], {"overflow": "silently"}, ValueError),
        ([], {"types": "death"}, TypeError),
        ([], {"timeout": "1"}, TypeError),
    ],
)
def test_bad_input_leaves_no_context_open(
    world: World, engines: Engines, arguments: Any, how: Any, error: type[Exception]
) -> None:
    engine = engines()
    with pytest.raises(error):
        gxl.watch(*arguments, engine=engine, hub=world.hub, **how)
    if not engines.all_closed():
        engine.ctx_free()  # as only whoever owns it may: it was not even opened


def test_one_that_is_dropped_before_its_end_warns(world: World) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        gc.collect()
        caught.clear()
        events = gxl.watch(engine=world.engine(), hub=world.hub)
        pump = events._ctx._pump
        del events
        gc.collect()
    assert [(entry.category, "unclosed <gxl.Context" in str(entry.message)) for entry in caught] == [
        (ResourceWarning, True)
    ]
    assert pump.free()
