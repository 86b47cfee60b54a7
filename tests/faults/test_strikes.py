# SPDX-License-Identifier: LGPL-2.1-or-later
"""Fault: Ctrl-C at each step of a call. Whatever it interrupts, the Context can be closed, and leaves nothing."""

from __future__ import annotations

import contextlib
import dis
import functools
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import gevent
import pytest
from worlds import World, settle, until

import gxl
from gxl import arrivals, leaving, shield
from gxl.events import OperationComplete
from gxl.hubhooks import gevent as hub
from gxl.shield import Shield

PACKAGE = Path(gxl.__file__).parent
HOST = PACKAGE / "simhost"
WAY_OF_A_BURST = (arrivals.__file__, shield.__file__, hub.__file__)
LOAD_CONST, NOP, SWAP = (dis.opmap[name] for name in ("LOAD_CONST", "NOP", "SWAP"))
Act = Callable[[Any, gxl.Context], object]

pytest_plugins = ["forms"]
pytestmark = pytest.mark.usefixtures("form")

STRIDE = 41
"""Only every so manieth step is struck, of some 25,000: each takes a Context of its own."""


def watches(host: Any, ctx: gxl.Context) -> None:
    with ctx.watch(timeout=0) as events:
        assert list(events) == []


def waits(host: Any, ctx: gxl.Context) -> None:
    domid = host.create_domain()
    with ctx.evenable_domain_death(domid):
        host.destroy_domain(domid)
        ctx.event_wait(timeout=10)


def expects(host: Any, ctx: gxl.Context) -> None:
    domid = host.create_domain()
    with ctx.expect(gxl.DomainDeath, domid) as death:
        host.destroy_domain(domid)
        death.wait(10)


def takes(host: Any, ctx: gxl.Context) -> None:
    domid = host.create_domain()
    with ctx.evenable_domain_death(domid):
        host.destroy_domain(domid)
        while ctx.event_check(predicate=lambda event: event.domid == domid) is None:
            gevent.sleep(0.001)


def destroys(host: Any, ctx: gxl.Context) -> None:
    ctx.domain_destroy(host.create_domain())


def closes(host: Any, ctx: gxl.Context) -> None:
    ctx.evenable_domain_death(host.create_domain())
    ctx.close(timeout=5)


@pytest.fixture(autouse=True)
def ctrl_c() -> Iterator[None]:
    """Python's own handler of SIGINT: libev, whose watchers other tests use, leaves the system's in its place."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


SCENES: tuple[Act, ...] = (watches, waits, expects, takes, destroys, closes)


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
def test_whatever_ctrl_c_interrupts_the_context_serves_and_can_be_closed(world: World, scene: Act) -> None:
    with world.open() as first:
        served(world.host, first, "not yet")
    settle()
    before = fds()
    step, struck = 1, True
    while struck:
        ctx = world.open()
        struck = interrupted(partial(scene, world.host, ctx), step)
        where = f"struck at step {step}"
        if scene is not closes:
            served(world.host, ctx, where)
        began = time.monotonic()
        ctx.close(timeout=5)
        assert time.monotonic() - began < 2, where
        assert ctx._pump.counters.abandoned == 0, where
        settle()
        assert fds() == before, where
        step += STRIDE
    assert step > 50


def test_whatever_ctrl_c_interrupts_a_burst_is_delivered_to_its_end_though_nothing_else_happens(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"_LONG": 0.0, "_SLICE": 0.0, "_BETWEEN_LOOKS": 2, "_BATCH": 3}.items():
        monkeypatch.setattr(arrivals, name, value)
    ctx = world.open()
    pump = ctx._pump
    found: deque[OperationComplete] = deque()
    made: list[int] = []
    called: list[int] = []
    traced: list[int] = []

    def collect(into: deque[Any], limit: int) -> bool:
        into.extend(found.popleft() for _ in range(min(limit, len(found))))
        return bool(found)

    def call() -> None:
        with Shield():  # as an engine is entered
            made.append(step)
            found.extend(events)
            pump._arrivals.notice()
            pump.arrived(partial(called.append, step))

    def burst() -> None:
        pump._turn(call)
        for _ in range(12):  # turns of the loop: those that settle() waits for, gevent makes one
            gevent.sleep(1e-6)
        traced.append(ctx.queued)

    pump._arrivals.sources.append(collect)
    step, struck = 1, True
    while struck:
        events = [OperationComplete(0, 0, for_user=number) for number in range(6)]
        missed = pump.counters.disasters
        struck = interrupted(burst, step, WAY_OF_A_BURST)
        until(lambda: not pump._arrivals and not found)
        missed = pump.counters.disasters - missed
        numbers = [event.for_user for event in iter(ctx.event_check, None)]
        assert numbers == sorted(set(numbers)), step
        if made[-1:] == [step]:
            # An event at whose delivery it struck is a Disaster of its type, though it may have been delivered.
            assert 6 - missed <= len(numbers), step
            assert called[-1:] == [step]
        step += 1
    assert traced[-1] == 6


def test_whatever_ctrl_c_interrupts_the_evgens_of_the_dead_are_disabled_though_nothing_else_happens(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leaving, "_SLICE", 0.0)
    ctx = world.open()
    calls = ctx._pump.feeds._leaving
    made: list[int] = []

    def leave() -> None:
        with Shield():  # as a delivery has it
            for number in range(3):
                calls.add(partial(made.append, number))
        for _ in range(12):
            gevent.sleep(1e-6)

    step, struck = 1, True
    while struck:
        made.clear()
        struck = interrupted(leave, step, (leaving.__file__, shield.__file__, hub.__file__))
        until(lambda: not calls._calls)
        step += 1
    assert sorted(made) == [0, 1, 2]
    assert step > 50


def served(host: Any, ctx: gxl.Context, where: str) -> None:
    """The context still reports a death."""
    domid = host.create_domain()
    with ctx.evenable_domain_death(domid, user=7):
        host.destroy_domain(domid)
        assert isinstance(ctx.event_wait(user=7, timeout=10), gxl.DomainDeath), where


def interrupted(call: Callable[[], object], step: int, rooms: Collection[str] = ()) -> bool:
    """Whether there was such a step. At it, Python's handler of Ctrl-C is called, if it is not kept from it.

    The caller's steps count, and the loop's: in all that a Context is made of, or in `rooms` alone.
    """
    steps, here = 0, os.getpid()

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal steps
        path = frame.f_code.co_filename
        if not (path in rooms if rooms else mine(path)) or os.getpid() != here or frame.f_code.co_name == "__del__":
            return None  # Python itself drops what is raised in a __del__
        if isinstance(sys.exc_info()[1], GeneratorExit):
            return trace  # and as it closes a generator
        if event == "line" and not is_deaf(frame):
            steps += 1
        if steps == step:
            sys.settrace(None)
            signal.raise_signal(signal.SIGINT)
        return trace

    loop = gevent.get_hub().loop
    try:
        loop.run_callback(sys.settrace, trace)  # each greenlet is traced for itself
        settle(1)
        sys.settrace(trace)
        call()
    except (KeyboardInterrupt, gxl.Disaster):  # the latter where it took the place of an event
        pass
    finally:
        sys.settrace(None)
        loop.run_callback(sys.settrace, None)
    # If it struck in the loop, it comes to the main greenlet in one of the loop's next turns.
    for _ in range(3):
        with contextlib.suppress(KeyboardInterrupt):
            settle()
    return steps >= step


def is_deaf(frame: FrameType) -> bool:
    """Whether the next step is to enter a try, or to leave a with block: Python does not look for signals before."""
    code, place = frame.f_code, frame.f_lasti
    if code.co_code[place] == SWAP:  # what a return in the block has to give
        place += 2
    return code.co_code[place] == NOP or (
        code.co_code[place] == LOAD_CONST and code.co_consts[code.co_code[place + 1]] is None
    )


@functools.cache
def mine(path: str) -> bool:
    """Whether a file is part of what a Context is made of."""
    return PACKAGE in Path(path).parents and HOST not in Path(path).parents


def fds() -> list[str]:
    return sorted(os.listdir("/proc/self/fd"))
