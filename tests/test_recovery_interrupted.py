# SPDX-License-Identifier: LGPL-2.1-or-later
"""Ctrl-C at any step of a loss of xenstored and of the way back, in a program that goes on. Against each engine.

By default a few of the steps; GXL_INTERRUPTED_STRIDE=1 tries each.
"""

from __future__ import annotations

import os
import signal
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from outages import soon, turn
from worlds import World

import gxl
from gxl import DomainDeath, DomainShutdown, Resynced, pump

# Here Python's own steps can be told; all that the hub does is done by the thread that waits.
HUBS = ("poll",)
pytestmark = pytest.mark.usefixtures(soon.__name__)
STRIDE = int(os.environ.get("GXL_INTERRUPTED_STRIDE", "23"))
ROOM = Path(pump.__file__).parent
ROOMS = {
    str(ROOM / f"{name}.py") for name in ("pump", "recovery", "reign", "feeds", "sidechannel", "operations", "arrivals")
}


class Strike:
    """Presses Ctrl-C after so many steps of the rooms above, counted from when the connections are cut."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def __call__(self, frame: FrameType, what: str, argument: object) -> Any:
        if frame.f_code.co_filename not in ROOMS:
            return None
        if what == "line":
            self.left -= 1
            if self.left <= 0:
                sys.settrace(None)
                signal.raise_signal(signal.SIGINT)
        return self


def struck_after(world: World, steps: int) -> tuple[bool, bool]:
    """One loss, one Ctrl-C after so many steps. Whether it struck, and whether there were so many."""
    ctx = world.open(recover=True)
    off, gone, late = (world.host.create_domain(paused=paused) for paused in (False, True, False))
    for domid in (off, gone):
        ctx.evenable_domain_death(domid)
    operation = ctx.domain_shutdown(gone, wait=False)
    ctx.list_domain()
    world.host.shutdown_domain(off, 3)
    strike, struck = Strike(steps), False

    def traced(condition: Callable[[], object]) -> None:
        nonlocal struck
        sys.settrace(strike if strike.left > 0 else None)
        try:
            # Takes no event: one that is being taken is the caller's to lose.
            turn(ctx, condition)
        except KeyboardInterrupt:
            struck = True
        finally:
            sys.settrace(None)

    with world.host.down():
        traced(lambda: ctx.outage)
        turn(ctx, lambda: ctx.outage)
        ctx.evenable_domain_death(late)
    traced(lambda: ctx.metrics().recoveries and not ctx._pump.feeds.pending and not ctx._pump._arrivals)
    told: Counter[tuple[type[gxl.Event], int]] = Counter()

    def heard(kind: type[gxl.Event], domid: int) -> bool:
        told.update((type(event), event.domid) for event in iter(ctx.event_check, None))
        return (kind, domid) in told

    turn(ctx, lambda: ctx.outage is None and operation.done and ctx.metrics().recoveries)
    # An event at whose delivery it struck is a Disaster of its type, which is told.
    turn(ctx, lambda: heard(DomainShutdown, off) or ctx.metrics().disasters > ctx.metrics().recoveries)
    for domid in (off, gone, late):
        world.host.destroy_domain(domid)
    turn(ctx, lambda: all(heard(DomainDeath, domid) for domid in (off, gone, late)))
    assert told.pop((Resynced, 0))
    assert set(told.values()) == {1}, (steps, told)
    world.close()
    return struck, strike.left <= 0


def test_ctrl_c_at_any_step_neither_ends_the_recovery_nor_loses_an_event(world: World) -> None:
    strikes = 0
    for steps in range(1, 10_000, STRIDE):
        struck, reached = struck_after(world, steps)
        strikes += struck
        if not reached:
            break
    assert strikes > 5
