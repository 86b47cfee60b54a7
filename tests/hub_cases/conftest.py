# SPDX-License-Identifier: LGPL-2.1-or-later
"""Fixtures of the gevent hub's own cases."""

from __future__ import annotations

from collections.abc import Iterator

import gevent
import gevent.os
import pytest
from blocking import BlockingRig

from gxl.hubhooks.gevent import GeventHub
from gxl.testing.hubs.rig import Provider, Rig


@pytest.fixture
def rig() -> Iterator[BlockingRig]:
    rig = BlockingRig(Rig(Provider(GeventHub, fork=gevent.os.fork_gevent)))
    with rig.cleanup:
        yield rig


@pytest.fixture
def reported(monkeypatch: pytest.MonkeyPatch) -> list[BaseException]:
    """What the hub's error handler was told, which prints nothing meanwhile."""
    errors: list[BaseException] = []

    def handle_error(context: object, kind: object, error: BaseException, traceback: object) -> None:
        # Without a context, gevent throws it into the main greenlet.
        errors.append(error if context is not None else AssertionError(f"{error!r} escaped from a callback"))

    monkeypatch.setattr(gevent.get_hub(), "handle_error", handle_error)
    return errors
