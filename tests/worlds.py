# SPDX-License-Identifier: LGPL-2.1-or-later
"""A host and the contexts on it, so that one test runs against each engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import gevent
from gevent.threadpool import ThreadPool

import gxl
from gxl.interfaces import IEngine

BARRIER = 0xBA221E2


@dataclass
class World:
    """A simulated host, and how an engine sees it."""

    host: Any
    make_engine: Any
    hub: str = "gevent"
    contexts: list[gxl.Context] = field(default_factory=list)

    def open(self, **how: Any) -> gxl.Context:
        """A Context on this host, closed at the end of the test."""
        engine = self.make_engine if how.get("recover") else self.engine()
        ctx = gxl.Context(engine=engine, hub=self.hub, **how)
        self.contexts.append(ctx)
        return ctx

    @property
    def in_process(self) -> bool:
        """Whether the host is in this process, as the embedded engine wants it."""
        return isinstance(self.host, gxl.SimHost)

    def engine(self) -> IEngine:
        """An engine on this host that nobody owns yet."""
        engine: IEngine = self.make_engine()
        return engine

    def barrier(self, ctx: gxl.Context) -> None:
        """Return when all that has happened so far on the host has reached `ctx`.

        xenstored tells each connection of changes in order. So libxl's has been heard when the death of one more
        domain has arrived, and the side channel's when it has answered a question.
        """
        ctx.list_domain()
        domid = self.host.create_domain()
        with ctx.evenable_domain_death(domid, user=BARRIER):
            self.host.destroy_domain(domid)
            ctx.event_wait(user=BARRIER, timeout=10)
        ctx.list_domain()

    @contextmanager
    def unnamed(self, ctx: gxl.Context) -> Iterator[int]:
        """A domain that has shut down, and whose name xenstored does not tell `ctx` inside."""
        # libxl asks xenstored when its first evgen is enabled, and waits for the answer.
        ctx.evenable_domain_death(self.host.create_domain())
        self.barrier(ctx)
        domid = self.host.create_domain("slow")
        self.host.shutdown_domain(domid, 1)
        with self.host.stalled():
            yield domid

    def drained(self, ctx: gxl.Context, count: int = 0) -> list[gxl.Event]:
        """The next `count` events, and then whatever else there is once all has been heard."""
        events = [ctx.event_wait(timeout=10) for _ in range(count)]
        self.barrier(ctx)
        return events + list(iter(ctx.event_check, None))

    def close(self) -> None:
        """Close what was opened."""
        while self.contexts:
            self.contexts.pop().close(timeout=5)


def settle(turns: int = 5) -> None:
    """Let everything that is ready in the hub happen."""
    for _ in range(turns):
        gevent.sleep(0)


def in_native_thread(f: Callable[[], object]) -> None:
    """Run `f` in another native thread, also in a patched process, whose `threading.Thread` is a greenlet."""
    pool = ThreadPool(1)
    try:
        pool.apply(f)
    finally:
        # Its watcher would keep the hub's loop going for the tests after this one.
        pool.kill()


def until(condition: Callable[[], object], seconds: float = 5) -> None:
    """Let the hub run until `condition` holds."""
    with gevent.Timeout(seconds, AssertionError(f"it did not happen within {seconds} s")):
        while not condition():
            gevent.sleep(0.001)


def outcome(greenlet: gevent.Greenlet[..., Any]) -> Any:
    """What a greenlet returned or raised, waiting for it for a while."""
    greenlet.join(timeout=5)
    assert greenlet.ready(), f"{greenlet} hangs"
    return greenlet.value if greenlet.successful() else greenlet.exception
