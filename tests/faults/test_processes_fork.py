# SPDX-License-Identifier: LGPL-2.1-or-later
"""Fault: the application forks, at each point where a call of the public API waits."""

from __future__ import annotations

import os
import posix

import pytest
from interruptions import check_nothing_parked, play
from leaks import Ledger
from scenes import SCENES, Play, strikes_of
from worlds import World, until

import gxl


def live_as_a_child(ctx: gxl.Context) -> None:
    """What a child may do with its parent's Context: be refused, and close it."""
    try:
        ctx.event_check()
    except gxl.MisuseError:
        ctx.close()
        os._exit(0)
    finally:
        os._exit(1)


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
def test_a_child_is_refused_and_takes_nothing_from_its_parent(world: World, sealed: Ledger, scene: Play) -> None:
    ctx = world.open()

    def fork(victim: object) -> None:
        pid = os.fork()
        if pid == 0:
            live_as_a_child(ctx)
        statuses.append(posix.waitpid(pid, 0)[1])

    for strike in strikes_of(scene):
        statuses: list[int] = []
        came_to = play(scene(world, ctx), strike, fork)
        assert not isinstance(came_to, BaseException), repr(came_to)
        assert statuses in ([], [0])
        until(lambda: not ctx._pump.operations)
        check_nothing_parked(ctx)
