# SPDX-License-Identifier: LGPL-2.1-or-later
"""Fault: libxl is lost while it has a child that does not end; and a Context ends before it."""

from __future__ import annotations

import pytest
from afflicted import run

from gxl.simhost.remote import RemoteHost

STOPPED = """
import asyncio, posix, warnings
from gxl import recovery

def listed():
    with open(f"/proc/self/task/{os.getpid()}/children") as children:
        return list(map(int, children.read().split()))

fork = posix.fork

def stopped_fork():
    pid = fork()
    if pid == 0:
        os.kill(os.getpid(), signal.SIGSTOP)
    return pid

def destroying(ctx):
    posix.fork = stopped_fork
    operation = ctx.domain_destroy(host.create_domain(), wait=False)
    posix.fork = fork
    [pid] = listed()
    os.waitid(os.P_PID, pid, os.WSTOPPED)
    return operation, pid

def until(ctx, condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        try:
            ctx.event_wait(domid=32000, timeout=0.01)
        except gxl.WaitTimeout:
            pass
"""

LOST = """
def open_context():
    return gxl.Context(engine, hub=sys.argv[2], recover=True)

async def opened_in_the_loop():
    return open_context()

def lose(how, patience):
    # Whether the ctx is abandoned before its child ends.
    recovery.FREE_SECONDS = patience
    survivor = host.create_domain()
    ctx.evenable_domain_death(survivor)
    before = ctx.metrics()
    operation, pid = destroying(ctx)
    if how == "dead":
        host.fail_next("getdomaininfolist", 5)
        host.release()
    else:
        host.drop_connections()
    until(ctx, lambda: ctx.metrics().recoveries > before.recoveries)
    assert operation.done and operation.rc is None
    if sys.argv[1] == "libxl" and patience < 1:
        until(ctx, lambda: ctx.metrics().abandoned > before.abandoned)
    assert listed() == [pid]
    os.kill(pid, signal.SIGCONT)
    until(ctx, lambda: not listed())
    until(ctx, lambda: len(list(ctx._pump.reigns())) == 1)
    assert isinstance(ctx.event_wait(timeout=10), gxl.Resynced)
    ctx.domain_destroy(survivor)
    assert isinstance(ctx.event_wait(timeout=10), gxl.DomainDeath)
    return ctx.metrics().abandoned - before.abandoned

if sys.argv[2] == "asyncio":
    loop = asyncio.new_event_loop()
    ctx = loop.run_until_complete(opened_in_the_loop())
else:
    loop, ctx = None, open_context()
print([lose("silent", 0.1), lose("dead", 0.1), lose("silent", 20), lose("dead", 20)])
ctx.close(10)
assert not listed()
if loop is not None:
    loop.close()
"""


@pytest.mark.parametrize(
    ("engine", "hub"), [("embedded", "gevent"), ("libxl", "gevent"), ("libxl", "asyncio"), ("libxl", "poll")]
)
def test_a_ctx_that_can_not_be_freed_in_time_is_abandoned_and_counted_and_its_children_are_reaped(
    served_host: tuple[RemoteHost, dict[str, str]], engine: str, hub: str
) -> None:
    result = run(STOPPED + LOST, served_host, engine, hub)
    assert result.returncode == 0, result.stderr
    # The embedded engine fails its operations when it finds itself lost, and can be freed at once.
    assert result.stdout == "[1, 1, 0, 0]\n" or (engine == "embedded" and result.stdout.endswith("0, 0]\n"))


CLOSED = """
def open_context():
    return gxl.Context(engine(), hub=sys.argv[2])

async def opened_in_the_loop():
    return open_context()

def open_one():
    return open_context() if sys.argv[2] != "asyncio" else loop.run_until_complete(opened_in_the_loop())

loop = asyncio.new_event_loop() if sys.argv[2] == "asyncio" else None
ctx = open_one()
operation, pid = destroying(ctx)
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    ctx.close(0.05)
assert [warning.category for warning in told] == [ResourceWarning]
assert listed() == [pid]
os.kill(pid, signal.SIGCONT)
os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
other = open_one()
assert not listed()
other.domain_destroy(host.create_domain())
other.close(10)
assert not listed()
if loop is not None:
    loop.close()
print("fine")
"""


@pytest.mark.parametrize("hub", ["asyncio", "poll"])
def test_a_child_that_outlives_its_context_is_reaped_when_the_next_is_opened(
    served_host: tuple[RemoteHost, dict[str, str]], hub: str
) -> None:
    result = run(STOPPED + CLOSED, served_host, "libxl", hub)
    assert result.stdout == "fine\n", result.stderr
