# SPDX-License-Identifier: LGPL-2.1-or-later
"""A Context that outlives its connections to a real xenstored.

Not the daemon's own death: Xen's C xenstored can't be restarted, since all that it knows dies with it. So the
connections of the program are cut, each by itself, on the program's side.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator

import gevent
import pytest
from guests import Guests

from gxl import Context, DomainDeath, DomainShutdown, Resynced, ShutdownReason


@pytest.fixture
def recovering() -> Iterator[Context]:
    with Context("libxl", "gevent", recover=True) as context:
        yield context


def connections() -> list[int]:
    """This process's fds of connections to xenstored, each file once, ascending."""
    found: dict[int, int] = {}
    for name in sorted(os.listdir("/proc/self/fd"), key=int):
        try:
            status = os.stat(f"/proc/self/fd/{name}")
            if stat.S_ISSOCK(status.st_mode):
                with socket.socket(fileno=os.dup(int(name))) as peer:
                    if "xenstored" in str(peer.getpeername()):
                        found.setdefault(status.st_ino, int(name))
        except OSError:
            continue
    return list(found.values())


def cut(fd: int) -> None:
    with socket.socket(fileno=os.dup(fd)) as end:
        end.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("which", [0, 1])
def test_a_program_whose_connection_is_cut_misses_nothing(recovering: Context, guests: Guests, which: int) -> None:
    ctx = recovering
    # libxl opens its own before gxl does.
    ours = connections()
    assert len(ours) == 2, "where there is only /dev/xen/xenbus, nothing can be cut"
    stopping, dying, living = guests.tiny(), guests.tiny(), guests.tiny()
    for user, guest in enumerate((stopping, dying, living)):
        ctx.evenable_domain_death(guest.domid, user=user)
    waiter = gevent.spawn(ctx.event_wait, domid=living.domid)
    gevent.sleep(0.2)
    cut(ours[which])
    stopping.order("shutdown 3")
    dying.destroy()
    with gevent.Timeout(60):
        while ctx.metrics().recoveries < 1:
            gevent.sleep(0.01)
    assert isinstance(ctx.event_wait(timeout=60), Resynced)
    events = [ctx.event_wait(timeout=60) for _ in range(2)]
    told = {event.for_user: event for event in events}
    shutdown, death = told[0], told[1]
    assert isinstance(shutdown, DomainShutdown)
    assert shutdown.shutdown_reason is ShutdownReason.CRASH
    assert isinstance(death, DomainDeath)
    living.destroy()
    assert isinstance(waiter.get(timeout=60), DomainDeath)
    assert ctx.event_check() is None
    assert ctx.metrics().abandoned == 0
