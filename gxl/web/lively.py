# SPDX-License-Identifier: LGPL-2.1-or-later
"""A simulated host on which something happens: for demonstrations, and to look at the page without Xen."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any

import gevent

from gxl.context import Context
from gxl.errors import LibxlError
from gxl.events import DiskEject, DomainDeath, DomainShutdown, Event, ShutdownReason, mask
from gxl.simhost import SimHost

NAMES = ("web1", "web2", "db1", "cache1", "mail1", "build1", "build2", "desktop1")
CD = "hdc"
# What ends a life, and how often; None: it is destroyed while it runs.
_FATES = {
    ShutdownReason.POWEROFF: 4,
    ShutdownReason.REBOOT: 3,
    ShutdownReason.CRASH: 2,
    ShutdownReason.WATCHDOG: 1,
    None: 2,
}


class Lively:
    """One greenlet a name: as its toolstack it creates a domain, and starts another when that one has ended.

    `show` gets the ejects; a Context's other events are whoever watches for them. `pace`: 2 is twice as fast.
    """

    def __init__(self, host: SimHost, ctx: Context, show: Callable[[Event], object], pace: float = 1.0) -> None:
        self._host = host
        self._ctx = ctx
        self._show = show
        self._pace = pace
        lives = [gevent.spawn(self._run, name) for name in NAMES]
        self._greenlets: list[gevent.Greenlet[..., Any]] = [*lives, gevent.spawn(self._show_ejects)]

    def close(self) -> None:
        """Let nothing happen any more."""
        gevent.killall(self._greenlets)

    def _sleep(self, shortest: float, longest: float) -> None:
        gevent.sleep(random.uniform(shortest, longest) / self._pace)

    def _run(self, name: str) -> None:
        self._sleep(0, 2)
        while True:
            reason = self._live(name)
            if reason is not ShutdownReason.REBOOT:
                self._sleep(2, 8)

    def _live(self, name: str) -> ShutdownReason | int | None:
        """One life. Why it shut down; None if it died."""
        with ExitStack() as stack:
            domid = self._host.create_domain(name, memory_kb=random.choice((256, 512, 1024, 2048)) * 1024)
            if name.startswith("desktop"):
                self._host.add_disk(domid, CD, target="/srv/install.iso")
                stack.enter_context(self._ctx.evenable_disk_eject(domid, CD))
            end = stack.enter_context(self._ctx.expect((DomainShutdown, DomainDeath), domid))
            guest = gevent.spawn(self._act, domid, name)
            stack.callback(guest.kill)
            event = end.wait()
            if isinstance(event, DomainDeath):
                return None
            assert isinstance(event, DomainShutdown)
            self._sleep(2, 5)
            # Whoever looks at the page may have destroyed it first.
            with suppress(LibxlError):
                self._ctx.domain_destroy(domid)
            return event.shutdown_reason

    def _act(self, domid: int, name: str) -> None:
        with suppress(OSError):  # it was destroyed, or its CD taken out, meanwhile
            self._sleep(3, 12)
            if name.startswith("desktop"):
                self._host.eject_disk(domid, CD)
            elif random.random() < 0.3:
                self._host.pause_domain(domid)
                self._sleep(2, 5)
                self._host.unpause_domain(domid)
            self._sleep(3, 12)
            (fate,) = random.choices(list(_FATES), list(_FATES.values()))
            if fate is None:
                self._host.destroy_domain(domid)
            else:
                self._host.shutdown_domain(domid, fate)

    def _show_ejects(self) -> None:
        while True:
            self._show(self._ctx.event_wait(mask(DiskEject)))
