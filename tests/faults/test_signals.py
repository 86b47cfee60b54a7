# SPDX-License-Identifier: LGPL-2.1-or-later
"""Fault: signals, at any moment: such that interrupt system calls, and such whose handlers raise."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gevent
import pytest
from interruptions import check_nothing_parked
from leaks import Ledger
from worlds import World

import gxl


@contextmanager
def handling(number: int, handler: Any) -> Iterator[None]:
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)


def test_a_storm_of_signals_disturbs_nothing(world: World, sealed: Ledger) -> None:
    ctx = world.open()
    domids = [world.host.create_domain() for _ in range(30)]
    for domid in domids:
        ctx.evenable_domain_death(domid)
    rung: list[int] = []
    with handling(signal.SIGALRM, lambda *_: rung.append(1)):
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        try:
            # They fork children, and so there are SIGCHLDs, too.
            operations = [ctx.domain_destroy(domid, wait=False) for domid in domids]
            for operation in operations:
                operation.wait(30)
            deaths = [ctx.event_wait(timeout=30).domid for _ in domids]
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    assert len(rung) > 10
    assert sorted(deaths) == domids
    assert ctx.event_check() is None


class Stop(Exception):
    """What a handler raises."""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_a_handler_that_raises_ends_the_wait_and_loses_nothing(world: World, sealed: Ledger, number: int) -> None:
    ctx = world.open()
    domid = world.host.create_domain()
    ctx.evenable_domain_death(domid)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(3)

    with handling(number, stop):
        gevent.spawn_later(0.02, os.kill, os.getpid(), number)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            ctx.event_wait(timeout=10)
    check_nothing_parked(ctx)
    world.host.destroy_domain(domid)
    assert isinstance(ctx.event_wait(timeout=10), gxl.DomainDeath)
