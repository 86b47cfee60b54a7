# SPDX-License-Identifier: LGPL-2.1-or-later
"""The real libxenlight, in this process, on a simulated host in another."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from libxl_pump import pump, queued
from requirements import Requirements

from gxl.engines.libxl import LibxlEngine, ctx
from gxl.errors import MisuseError
from gxl.simhost.remote import RemoteHost


@pytest.fixture
def host(
    served_host: tuple[RemoteHost, dict[str, str]], monkeypatch: pytest.MonkeyPatch, unowned_sigchld: None
) -> RemoteHost:
    """A simulated host without guests, which libxenlight takes for its own."""
    served, variables = served_host
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    served.reset()
    return served


@pytest.fixture
def open_engine(host: RemoteHost) -> Iterator[Callable[[], LibxlEngine]]:
    """Opens engines that are closed at the end of the test."""
    opened: list[LibxlEngine] = []

    def open_one() -> LibxlEngine:
        opened.append(LibxlEngine())
        return opened[-1]

    yield open_one
    for engine in opened:
        try:
            engine.ctx_free()
        except MisuseError:
            # A test that meant to kill the engine with an operation under way: the ctx can't be freed any more.
            assert engine.dead is not None
            engine._ctx.pointer = None
            # It would keep other tests' engines from forking, until it is collected as garbage.
            ctx._open.discard(engine._ctx)


@pytest.fixture
def engine(open_engine: Callable[[], LibxlEngine]) -> LibxlEngine:
    return open_engine()


@pytest.fixture
def needs_library(require: Requirements) -> str:
    """For tests that need libxenlight but no host."""
    return require.library("xenlight")


@pytest.fixture
def three_deaths(engine: LibxlEngine, host: RemoteHost) -> list[int]:
    """Three domains whose deaths are in the queue, oldest first."""
    domids = [host.create_domain() for _ in range(3)]
    for user, domid in enumerate(domids):
        engine.evenable_domain_death(domid, user)
    for domid in domids:
        host.mark_dying(domid)
    while len(queued(engine)) < 3:
        pump(engine)
    return domids
