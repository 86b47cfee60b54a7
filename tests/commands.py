# SPDX-License-Identifier: LGPL-2.1-or-later
"""`gxl …` in the tests' own process, where the embedded engine's host is at hand."""

from __future__ import annotations

from collections.abc import Callable

import gevent
from click.testing import Result
from worlds import World, until

Run = Callable[..., Result]


def when_watching(world: World, act: Callable[..., object], *args: object) -> None:
    """Do this as soon as a command has been told what it watches."""

    def wait() -> None:
        until(lambda: world.contexts and any(feed.named for feed in world.contexts[-1]._pump.feeds.by_token.values()))
        act(*args)

    gevent.spawn(wait)
