# SPDX-License-Identifier: LGPL-2.1-or-later
"""Interrupts a greenlet at each point where it waits, one after the other.

A call of the public API is written down once, as a Scene, with what it waits for and what must hold afterwards however
it ended. The driver finds the points by itself: greenlet's trace function tells it each time that the greenlet is
switched away from, and at the n-th time it strikes, at once or some turns of the loop later. So one of the strikes
falls into the very turn in which the greenlet is woken for what it waited for, where events get lost.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any

import gevent
import greenlet
from worlds import settle

import gxl

TURNS = (0, 1, 2, 3, 5)
"""How many turns of the loop may pass between a point and the strike."""

Scene = Generator[Callable[[], Any] | None, Any, None]
"""Yields the call that is to be interrupted, then makes happen what it waits for, yields again, and is sent what
the call came to (its result, or what it raised) and checks that nothing was lost."""


@dataclass
class Strike:
    """Where and when a greenlet is to be interrupted, and whether that point was ever reached."""

    point: int
    turns: int
    reached: bool = False


def strikes(all_turns: tuple[int, ...] = TURNS, most: int = 50) -> Iterator[Strike]:
    """Every strike that hits: the driver stops at a point that was not reached any more."""
    for point in range(1, most):
        for turns in all_turns:
            strike = Strike(point, turns)
            yield strike
            if not strike.reached:
                return
    raise AssertionError(f"the call is still waiting after {most} points")


def play(scene: Scene, strike: Strike, blow: Callable[[Any], object]) -> Any:
    """Run the scene's call in a greenlet, and let `blow(greenlet)` fall at the strike. Returns what the call came to.

    `blow` must not switch: it may run in the middle of a switch.
    """
    loop = gevent.get_hub().loop
    call = next(scene)
    assert call is not None

    ended = False

    def run() -> Any:
        nonlocal ended
        try:
            return call()
        except BaseException as error:
            return error
        finally:
            ended = True

    victim = gevent.spawn(run)
    points = 0

    def later(turns: int) -> None:
        if turns:
            # A timer, unlike a callback, lets the loop look at its fds first.
            timer = loop.timer(0)
            timer.start(fire, timer, turns - 1)
        elif not ended:
            blow(victim)

    def fire(timer: Any, turns: int) -> None:
        timer.stop()
        timer.close()
        later(turns)

    def trace(event: str, args: tuple[Any, Any]) -> None:
        nonlocal points
        origin, _ = args
        if origin is victim and not ended:
            points += 1
            if points == strike.point:
                strike.reached = True
                later(strike.turns)

    before = greenlet.settrace(trace)
    try:
        settle(1)
        next(scene)
        victim.join(timeout=10)
    finally:
        greenlet.settrace(before)
    assert victim.dead, f"hung: {strike}"
    # One that is killed before it runs has no value; one that was killed as it ran returned the GreenletExit.
    result = victim.value if victim.successful() else victim.exception
    try:
        scene.send(result)
    except StopIteration:
        return result
    raise AssertionError("a scene ends after its checks")


def check_nothing_parked(ctx: gxl.Context) -> None:
    """No trace of a waiter is left in a context at which nobody waits, nor at gevent's hub."""
    check_nobody_waits(ctx)
    binding: Any = ctx._pump.binding
    assert binding.parked == 0


def check_nobody_waits(ctx: gxl.Context) -> None:
    """No trace of a waiter is left in a context at which nobody waits, whatever its hub."""
    pump = ctx._pump
    assert not any(pump.mailbox.plain.values())
    assert not any(pump.mailbox.picky.values())
    assert not pump.enders
    assert not pump.operations
    assert not pump.builds
