# SPDX-License-Identifier: LGPL-2.1-or-later
"""Outages of xenstored, and waiting for their beginnings and ends."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

import gxl
from gxl import recovery


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same back-off, in hundredths; and one evgen is enabled a turn, so that all can happen in between."""
    monkeypatch.setattr(recovery, "SLICE_SECONDS", 0.0)
    monkeypatch.setattr(recovery, "FIRST_SECONDS", 0.001)
    monkeypatch.setattr(recovery, "LONGEST_SECONDS", 0.05)


def turn(ctx: gxl.Context, condition: Callable[[], object], seconds: float = 10) -> None:
    """Let the Context work until `condition` holds, by waiting for what never comes."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        with pytest.raises(gxl.WaitTimeout):
            ctx.event_wait(domid=32000, timeout=0.002)


def back(ctx: gxl.Context) -> None:
    turn(ctx, lambda: ctx.outage is None)


def lost(ctx: gxl.Context) -> None:
    turn(ctx, lambda: ctx.outage is not None)
