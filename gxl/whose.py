# SPDX-License-Identifier: LGPL-2.1-or-later
"""Choosing queued events by the domain's name or UUID.

An event carries the name and the UUID that its domain had when it was watched. They are what is compared: the domain
that is asked for may be gone, and its last events are wanted all the same.
"""

from __future__ import annotations

import contextlib
import time
from uuid import UUID

from gxl.domains import Ambiguous, Designation, as_uuid, locate
from gxl.errors import GxlError
from gxl.events import Event
from gxl.interfaces import Predicate
from gxl.pump import Pump


class Whose:
    """A predicate: an event of the domain `wanted`, a name or a UUID, for which `also` is true."""

    def __init__(self, wanted: str | UUID, also: Predicate | None) -> None:
        self._wanted = wanted
        self._uuid = as_uuid(wanted) if isinstance(wanted, str) else wanted
        self._also = also

    def __call__(self, event: Event) -> object:
        mine = (self._uuid is not None and event.domuuid == self._uuid) or event.name == self._wanted
        return mine and (self._also is None or self._also(event))

    def watched(self, pump: Pump) -> bool:
        """Whether such a domain is being watched."""
        return pump.feeds.watches(self._wanted, self._uuid)

    def look_up(self, pump: Pump, timeout: float | None) -> None:
        """See which domain is meant now. Waits for names, for `timeout` seconds at most.

        LookupError: none is, or several are.
        """
        domid = locate(pump, self._wanted, timeout)
        with contextlib.suppress(GxlError):
            self._uuid = pump.engine.domain_info(domid).uuid


def take(
    pump: Pump, typemask: int, predicate: Predicate | None, domain: Designation | None, user: int | None
) -> Event | None:
    """The oldest queued event that passes."""
    if isinstance(domain, (str, UUID)):
        return pump.fetch(typemask, Whose(domain, predicate), None, user)
    return pump.fetch(typemask, predicate, domain, user)


def wait(
    pump: Pump,
    typemask: int,
    predicate: Predicate | None,
    timeout: float | None,
    domain: Designation | None,
    user: int | None,
) -> Event:
    """take(), or wait until there is such an event."""
    if not isinstance(domain, (str, UUID)):
        return pump.mailbox.wait(typemask, predicate, timeout, domain, user)
    whose = Whose(domain, predicate)
    event = pump.mailbox.take(typemask, whose, None, user)
    if event is None and timeout != 0:
        begin = time.monotonic()
        try:
            whose.look_up(pump, timeout)
        except Ambiguous:
            raise
        except LookupError:
            # It may have ended meanwhile.
            event = pump.mailbox.take(typemask, whose, None, user)
            if event is None and not whose.watched(pump):
                raise
        timeout = None if timeout is None else max(0.0, timeout - (time.monotonic() - begin))
    return pump.mailbox.wait(typemask, whose, timeout, None, user) if event is None else event
