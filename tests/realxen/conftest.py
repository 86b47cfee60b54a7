# SPDX-License-Identifier: LGPL-2.1-or-later
"""Tests with the real libxl, on a real Xen, with real domains: they run in the dom0 that `python -m realxen` boots."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import gevent
import pytest
from guests import Guests
from pace import Pace

from gxl import Context

# Never on a dom0 that merely is one: these tests create and destroy domains.
IN_OUR_DOM0 = "GXL_REALXEN" in os.environ


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not IN_OUR_DOM0:
        skip = pytest.mark.skip(reason="runs in the dom0 of an emulated Xen host: python -m realxen")
        for item in items:
            if Path(__file__).parent in item.path.parents:
                item.add_marker(skip)


@pytest.fixture(autouse=True)
def time_limit() -> Iterator[None]:
    """Ends a test that waits for something that never comes, so that the next ones still run."""
    with gevent.Timeout(180):
        yield


@pytest.fixture
def guests(tmp_path: Path) -> Iterator[Guests]:
    """Starts domains; they are destroyed at the end of the test."""
    made = Guests(tmp_path)
    yield made
    made.destroy_all()


@pytest.fixture
def ctx() -> Iterator[Context]:
    with Context("libxl", "gevent") as context:
        yield context


@pytest.fixture
def pace() -> Iterator[Pace]:
    """A greenlet that ticks throughout the test."""
    with Pace() as ticking:
        yield ticking
