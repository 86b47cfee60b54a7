# SPDX-License-Identifier: LGPL-2.1-or-later
"""A host and the contexts on it, so that one test runs against each engine."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import gevent

import gxl
from gxl.interfaces import IEngine


@dataclass
class World:
    """A simulated host, and how an engine sees it."""

    host: Any
    make_engine: Any
    contexts: list[gxl.Context] = field(default_factory=list)

    def open(self, **how: Any) -> gxl.Context:
        """A Context on this host, closed at the end of the test."""
        ctx = gxl.Context(engine=self.engine(), hub="gevent", **how)
        self.contexts.append(ctx)
        return ctx

    def engine(self) -> IEngine:
        """An engine on this host that nobody owns yet."""
        engine: IEngine = self.make_engine()
        return engine

    def close(self) -> None:
        """Close what was opened, and the host."""
        for ctx in self.contexts:
            ctx.close(timeout=5)
        self.host.close()


def settle(turns: int = 5) -> None:
    """Let everything that is ready in the hub happen."""
    for _ in range(turns):
        gevent.sleep(0)


def outcome(greenlet: gevent.Greenlet[..., Any]) -> Any:
    """What a greenlet returned or raised, waiting for it for a while."""
    greenlet.join(timeout=5)
    assert greenlet.ready(), f"{greenlet} hangs"
    return greenlet.value if greenlet.successful() else greenlet.exception
