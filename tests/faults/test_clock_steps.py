# SPDX-License-Identifier: LGPL-2.1-or-later
"""Fault: the wall clock is set, an hour forth or back, while libxl and gxl wait for moments that they reckon by it."""

from __future__ import annotations

from pathlib import Path

import pytest
from afflicted import run, shims
from requirements import Requirements

from gxl.simhost.remote import RemoteHost

PROGRAM = """
step = ctypes.c_long.in_dll(ctypes.CDLL(None), "clock_step")
ctx = open_context()
domid = host.create_domain(paused=True)
ctx.evenable_domain_death(domid)
# libxl gives the guest a minute to answer.
operation = ctx.domain_shutdown(domid, wait=False)
waiting = gevent.spawn(ctx.event_wait, domid=4000, timeout=0.3)
began = time.monotonic()
gevent.sleep(0.05)
step.value = int(sys.argv[2])
assert abs(time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)) > 1, "the clock is the system's"
waiting.join()
assert isinstance(waiting.exception, gxl.WaitTimeout)
assert 0.29 < time.monotonic() - began < 20, "the time limit went by the wall clock"
assert not operation.done, "libxl's minute went by the wall clock"
host.unpause_domain(domid)
operation.wait(10)
assert isinstance(ctx.event_wait(timeout=10), gxl.DomainShutdown)
# What is begun after the step counts from it.
other = host.create_domain(paused=True)
later = ctx.domain_shutdown(other, wait=False)
gevent.sleep(0.1)
assert not later.done
step.value = 0
gevent.sleep(0.1)
assert not later.done
later.abort()
host.destroy_domain(domid)
event = ctx.event_wait(timeout=10)
assert isinstance(event, gxl.DomainDeath)
assert abs(event.time - time.time()) < 60
ctx.close(10)
print("fine")
"""


@pytest.mark.parametrize("step", [3600, -3600])
@pytest.mark.parametrize("engine", ["embedded", "libxl"])
def test_what_waits_goes_by_the_time_that_has_passed(
    served_host: tuple[RemoteHost, dict[str, str]], require: Requirements, tmp_path: Path, engine: str, step: int
) -> None:
    result = run(PROGRAM, served_host, engine, str(step), preload=shims(require, tmp_path))
    assert result.stdout == "fine\n", result.stdout + result.stderr


POLLED = """
step = ctypes.c_long.in_dll(ctypes.CDLL(None), "clock_step")
ctx = gxl.Context(engine, hub="poll", recover=True)
ctx.evenable_domain_death(host.create_domain())

def wait(seconds):
    began = time.monotonic()
    try:
        ctx.event_wait(domid=4000, timeout=seconds)
    except gxl.WaitTimeout:
        assert seconds * 0.9 < time.monotonic() - began < seconds + 10

operation = ctx.domain_shutdown(host.create_domain(paused=True), wait=False)
wait(0.05)
step.value = int(sys.argv[2])
wait(0.2)
# libxl's minute goes by the wall clock: that is what it is asked about by beforepoll and afterpoll.
assert operation.done == (step.value > 0)
with host.down():
    while ctx.outage is None:
        wait(0.01)
    step.value = 0
end = time.monotonic() + 20
while ctx.outage is not None:
    assert time.monotonic() < end, "the pause before the next attempt went by the wall clock"
    wait(0.01)
ctx.close(10)
print("fine")
"""


@pytest.mark.parametrize("step", [3600, -3600])
@pytest.mark.parametrize("engine", ["embedded", "libxl"])
def test_without_a_loop_gxls_limits_go_by_the_time_that_has_passed_and_libxls_by_the_clock(
    served_host: tuple[RemoteHost, dict[str, str]], require: Requirements, tmp_path: Path, engine: str, step: int
) -> None:
    result = run(POLLED, served_host, engine, str(step), preload=shims(require, tmp_path))
    assert result.stdout == "fine\n", result.stdout + result.stderr
