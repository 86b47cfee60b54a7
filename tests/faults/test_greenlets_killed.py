# SPDX-License-Identifier: LGPL-2.1-or-later
"""Fault: a greenlet is killed, at each point where a call of the public API waits."""

from __future__ import annotations

import pytest
from interruptions import check_nothing_parked, play
from leaks import Ledger
from scenes import SCENES, Play, strikes_of
from worlds import World, until


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
def test_a_kill_loses_and_leaves_nothing(world: World, sealed: Ledger, scene: Play) -> None:
    ctx = world.open()
    for strike in strikes_of(scene):
        play(scene(world, ctx), strike, lambda victim: victim.kill(block=False))
        until(lambda: not ctx._pump.operations)
        check_nothing_parked(ctx)
