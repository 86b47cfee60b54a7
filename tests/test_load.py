# SPDX-License-Identifier: LGPL-2.1-or-later
"""Load, in short: nothing of a storm, an outage or a flood is lost or doubled. `python -m stress` is the long form."""

from __future__ import annotations

from worlds import World

from stress.flood import flood
from stress.outage import outage
from stress.place import Place
from stress.storm import storm


def here(world: World) -> Place:
    return Place("embedded" if world.in_process else "libxl", world.host, world.make_engine)


def test_a_storm_of_deaths_reaches_each_greenlet_once_and_does_not_stop_the_hub(world: World) -> None:
    storm(here(world), 4_000 if world.in_process else 200, seed=1)


def test_an_outage_with_all_of_them_watched_loses_and_doubles_nothing_and_does_not_stop_the_hub(world: World) -> None:
    outage(here(world), 1_000 if world.in_process else 200, seed=3)


def test_a_flood_is_kept_within_bounds_and_every_loss_is_counted(world: World) -> None:
    figures = flood(here(world), 1_000 if world.in_process else 300, seed=2, seconds=0)
    assert min(figures["lost by slow readers"].values()) > 0
