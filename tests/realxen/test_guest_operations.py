# SPDX-License-Identifier: LGPL-2.1-or-later
"""A toolstack's work on real domains, through gxl: done cooperatively, with every child accounted for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from uuid import UUID

import gevent
import pytest
from gevent import subprocess
from guests import Guest, Guests, run
from pace import Pace

import gxl
from gxl import Context, DomainCreateConsoleAvailable, DomainShutdown, LibxlError, ShutdownReason
from gxl.errors import Aborted, Fail
from gxl.expect import Expectation

COMMANDS = 100
ROUNDS = 3


def children() -> set[int]:
    """This process's children, dead ones included."""
    tasks = Path("/proc/self/task").iterdir()
    return {int(pid) for task in tasks for pid in (task / "children").read_text().split()}


def reason(end: Expectation, seconds: float) -> ShutdownReason | int:
    """With what reason the expected shutdown came."""
    event = end.wait(seconds)
    assert isinstance(event, DomainShutdown)
    return event.shutdown_reason


def state(ctx: Context, domid: int) -> str:
    return next(domain.state for domain in ctx.list_domain() if domain.domid == domid)


@contextmanager
def commands(count: int) -> Iterator[None]:
    """Meanwhile the application runs `count` programs of its own, and each exit code is its own."""

    def one(number: int) -> int:
        return int(subprocess.run(["sh", "-c", f"exit {number % 256}"], check=False).returncode)

    def some(first: int) -> list[tuple[int, int]]:
        return [(number, one(number)) for number in range(first, count, 4)]

    running = [gevent.spawn(some, first) for first in range(4)]
    yield
    codes = dict(pair for greenlet in running for pair in greenlet.get())
    assert codes == {number: number % 256 for number in range(count)}


def test_a_guest_is_created_saved_restored_and_destroyed_beside_a_hundred_commands(
    ctx: Context, guests: Guests, pace: Pace, tmp_path: Path
) -> None:
    before = children()
    config = guests.configuration("linux-kernel")
    name, uuid = config["c_info"]["name"], UUID(config["c_info"]["uuid"])
    with commands(COMMANDS):
        domid = ctx.domain_create(config, console=True, for_user=6).domid
        assert domid is not None
        console = ctx.event_wait(gxl.mask(DomainCreateConsoleAvailable), timeout=10)
        assert (console.domid, console.for_user) == (domid, 6)
        assert state(ctx, domid) == "paused"
        ctx.domain_unpause(domid)
        Guest(name, domid, uuid).said("linux guest: ready")
        ctx.domain_pause(domid)
        assert state(ctx, domid) == "paused"
        ctx.domain_unpause(domid)

        with (tmp_path / "saved").open("w+b") as file:
            with ctx.expect(DomainShutdown, domid) as suspended:
                ctx.domain_suspend(domid, file.fileno())
                assert reason(suspended, 10) is ShutdownReason.SUSPEND
            ctx.domain_destroy(domid)
            file.seek(0)
            again = ctx.domain_restore(file.fileno(), config).domid
        assert again is not None
        assert again != domid
        ctx.domain_unpause(again)

        # That it suspends itself once more proves that it goes on where it was. This time nobody takes what is saved:
        # libxl's helper writes a pipe full, and is ended.
        reader, writer = os.pipe()
        saving = ctx.domain_suspend(again, writer, wait=False)
        with ctx.expect(DomainShutdown, again) as suspended:
            assert reason(suspended, 20) is ShutdownReason.SUSPEND
        assert saving.abort()
        assert not saving.abort()
        with pytest.raises(LibxlError) as ended:
            saving.wait(20)
        assert ended.value.rc in (Aborted.code, Fail.code)
        os.close(reader)
        os.close(writer)
        ctx.domain_destroy(again)
    assert {domain.domid for domain in ctx.list_domain()} == {0}
    # What an earlier test's Context had left is reaped when the next child is made.
    assert children() <= before
    print("ticks:", pace.ticks, "median and worst gap:", median(pace.gaps), max(pace.gaps))
    assert pace.ticks > 100


def test_a_guest_that_is_asked_to_reboot_says_so(ctx: Context, guests: Guests) -> None:
    guest = guests.tiny()
    with ctx.expect(DomainShutdown, guest.domid) as end:
        ctx.domain_reboot(guest.domid)
        assert reason(end, 10) is ShutdownReason.REBOOT


def test_an_aborted_operation_ends_as_libxl_says(ctx: Context, guests: Guests) -> None:
    before = children()
    guest = guests.tiny(paused=True)  # it answers nothing
    shutdown = ctx.domain_shutdown(guest.domid, wait=False)
    with pytest.raises(gxl.WaitTimeout):
        shutdown.wait(0.2)
    assert shutdown.abort()
    with pytest.raises(Aborted):
        shutdown.wait(10)

    creating = ctx.domain_create(guests.configuration(), wait=False)
    assert creating.abort()
    try:
        creating.wait(20)
    except Aborted:
        assert creating.domid is None
    else:
        # It was done before it was asked to stop.
        assert creating.domid is not None
        ctx.domain_destroy(creating.domid)
    assert children() <= before


def test_operations_leave_the_hub_as_free_as_xl_in_processes_of_its_own(ctx: Context, guests: Guests) -> None:
    """Rounds alternate: creating, pausing, unpausing and destroying a domain with xl, and through gxl."""
    typical: dict[str, list[float]] = {"xl": [], "gxl": []}
    worst: dict[str, list[float]] = {"xl": [], "gxl": []}
    for _ in range(ROUNDS):
        for kind in ("xl", "gxl"):
            with Pace() as pace:
                if kind == "xl":
                    guest = guests.tiny(paused=True)
                    run("xl", "unpause", str(guest.domid))
                    run("xl", "pause", str(guest.domid))
                    guest.destroy()
                else:
                    domid = ctx.domain_create(guests.configuration()).domid
                    assert domid is not None
                    ctx.domain_unpause(domid)
                    ctx.domain_pause(domid)
                    ctx.domain_destroy(domid)
                gaps = pace.gaps
            typical[kind].append(median(gaps))
            worst[kind].append(max(gaps))
    report = {kind: (median(typical[kind]), median(worst[kind])) for kind in ("xl", "gxl")}
    print("median and worst gap, seconds:", report)
    assert report["gxl"][0] / report["xl"][0] < 1.5, report
    assert report["gxl"][1] / report["xl"][1] < 5, report
