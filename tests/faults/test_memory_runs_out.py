# SPDX-License-Identifier: LGPL-2.1-or-later
"""Fault: there is no memory. Inside libxl, which then ends the process; and for the copy of an event."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gevent
import pytest
from afflicted import run, shims
from leaks import Ledger
from requirements import Requirements
from worlds import World, outcome

import gxl
from gxl import compiled
from gxl.simhost.remote import RemoteHost

STARVED = """
shims = ctypes.CDLL(None)
number = lambda name: ctypes.c_long.in_dll(shims, name)
with open("/proc/self/maps") as maps:
    LibxlEngine().ctx_free()  # which loads the library
    maps.seek(0)
    ranges = [line.split()[0].split("-") for line in open("/proc/self/maps") if "/libxenlight.so" in line]
number("starved_from").value = int(ranges[0][0], 16)
number("starved_to").value = int(ranges[-1][1], 16)
domid = host.create_domain()
host.add_disk(domid, "xvda", "vbd")

def live():
    engine = LibxlEngine()
    evgens = engine.evenable_domain_death(domid), engine.evenable_disk_eject(domid, "xvda")
    fds, _ = engine.osevent_beforepoll()
    engine.osevent_afterpoll([(fd, events, events) for fd, events in fds])
    engine.event_check()
    engine.domain_pause(domid, gxl.AsyncHow())
    engine.event_check()
    engine.evdisable_disk_eject(evgens[1])
    engine.ctx_free()

ends = {}
for count in range(int(sys.argv[2]), 4000, int(sys.argv[3])):
    said, says = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.dup2(says, 2)
        signal.alarm(20)
        number("allocations_left").value = count
        try:
            live()
            end = 0 if number("allocations_left").value >= 0 else 4
        except (gxl.GxlError, OSError, MemoryError):
            end = 3
        os._exit(end)
    os.close(says)
    with open(said) as words:
        text = words.read()
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in (0, 3, 4) or (status == 255 and "memory allocation failure" in text), (count, status, text)
    ends[status] = ends.get(status, 0) + 1
    if status == 0:
        break
print(ends)
"""


def test_libxl_without_memory_ends_the_process_by_its_own_word_and_never_by_a_crash(
    served_host: tuple[RemoteHost, dict[str, str]], require: Requirements, tmp_path: Path
) -> None:
    result = run(STARVED, served_host, "libxl", "0", "7", preload=shims(require, tmp_path), seconds=120)
    assert result.returncode == 0, result.stdout + result.stderr
    ends = eval(result.stdout)
    assert ends[255] > 0, "no allocation of libxl's has failed"
    assert ends[0] == 1, "the end was not reached"


def test_an_event_that_can_not_be_copied_is_a_disaster_of_its_type_and_not_silently_lost(
    world: World, sealed: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled, "part", None)  # what that does then, tests/test_libxl_collecting.py says
    ctx = world.open()
    domids = [world.host.create_domain() for _ in range(2)]
    for domid in domids:
        ctx.evenable_domain_death(domid)
    watcher, eject = ctx.watch(*domids), ctx.expect(gxl.DiskEject, domids[0], vdev="xvda")
    with ctx.expect(gxl.DomainDeath, domids[0]) as death, eject:
        waiting: list[Any] = [gevent.spawn(ctx.event_wait, domid=domids[0]), gevent.spawn(death.wait)]
        others = gevent.spawn(eject.wait)
        gevent.sleep(0)
        pump: Any = ctx._pump
        if world.in_process:
            _one_is_lost(world, monkeypatch, pump.feeds, "stamp", domids[0])
        else:
            _one_is_lost(world, monkeypatch, pump.reign.engine._ctx.collecting, "draft", domids[0])
        for waiter in waiting:
            lost = outcome(waiter)
            assert isinstance(lost, gxl.Disaster)
            assert lost.type == gxl.EventType.DOMAIN_DEATH
        assert not others.ready()
    # Only that event is in doubt; the context goes on.
    world.host.destroy_domain(domids[1])
    assert ctx.event_wait(domid=domids[1], timeout=10)
    missing, event = next(watcher), next(watcher)
    assert (type(missing), type(event), event.domid) == (gxl.EventsLost, gxl.DomainDeath, domids[1])
    assert (missing.seq or 0) < (event.seq or 0)
    assert watcher.lost == 1
    watcher.close()


def _one_is_lost(world: World, monkeypatch: pytest.MonkeyPatch, where: Any, what: str, domid: int) -> None:
    def broken(*arguments: Any, **named: Any) -> Any:
        monkeypatch.undo()
        raise MemoryError

    monkeypatch.setattr(where, what, broken)
    world.host.destroy_domain(domid)
