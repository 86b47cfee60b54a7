# SPDX-License-Identifier: LGPL-2.1-or-later
"""Fault: the interpreter exits, in one way or another, with everything open."""

from __future__ import annotations

import pytest
from afflicted import run

from gxl.simhost.remote import RemoteHost

PROGRAM = """
ctx, other = open_context(), open_context()
domid, paused = host.create_domain(), host.create_domain(paused=True)
host.add_disk(domid, "xvda")
evgens = ctx.evenable_domain_death(domid), ctx.evenable_disk_eject(domid, "xvda"), other.follow_domains()
watcher = ctx.watch()
waiting = [gevent.spawn(ctx.event_wait), gevent.spawn(next, watcher), gevent.spawn(other.list_domain)]
stuck = ctx.domain_shutdown(paused, wait=False)
going = ctx.domain_destroy(host.create_domain(), wait=False)
gevent.sleep(0.01)
queued = host.create_domain()
ctx.evenable_domain_death(queued)
host.destroy_domain(queued)
ends = {
    "return": lambda: None,
    "exit": lambda: sys.exit(3),
    "greenlet": lambda: gevent.spawn(sys.exit, 3).join(),
    "error": lambda: 1 / 0,
    "signal": lambda: os.kill(os.getpid(), signal.SIGTERM),
    "hub": lambda: gevent.get_hub().destroy(),
}
ends[sys.argv[2]]()
"""

STATUSES = {"return": 0, "exit": 3, "greenlet": 3, "error": 1, "signal": -15, "hub": 0}


@pytest.mark.parametrize("end", STATUSES)
@pytest.mark.parametrize("engine", ["embedded", "libxl"])
def test_the_process_ends_as_it_was_told(served_host: tuple[RemoteHost, dict[str, str]], engine: str, end: str) -> None:
    result = run(PROGRAM, served_host, engine, end, PYTHONWARNINGS="ignore::ResourceWarning")
    assert result.returncode == STATUSES[end], result.stderr
    if end != "error":
        assert "Traceback" not in result.stderr
    assert "Fatal" not in result.stderr


LOST = """
from gxl import recovery
recovery.FIRST_SECONDS, recovery.SLICE_SECONDS = 0.001, 0.0
ctx = gxl.Context(engine=engine, hub="gevent", recover=True)
for _ in range(50):
    ctx.evenable_domain_death(host.create_domain())
waiting = [gevent.spawn(ctx.event_wait, domid=32000), gevent.spawn(next, ctx.watch())]
down = host.down()
down.__enter__()
# Else it would tell the host that it ends, or find it closed, as Python happens to collect its garbage.
ctypes.pythonapi.Py_IncRef(ctypes.py_object(down))
while not ctx.outage:
    gevent.sleep(0.001)
if sys.argv[2] == "back":
    down.__exit__(None, None, None)
    while not ctx._pump.recovery._next:
        gevent.sleep(0.001)
sys.exit(3)
"""


@pytest.mark.parametrize("stage", ["lost", "back"])
@pytest.mark.parametrize("engine", ["embedded", "libxl"])
def test_the_process_ends_while_xenstored_is_lost_or_on_its_way_back(
    served_host: tuple[RemoteHost, dict[str, str]], engine: str, stage: str
) -> None:
    result = run(LOST, served_host, engine, stage, PYTHONWARNINGS="ignore::ResourceWarning")
    assert result.returncode == 3, result.stderr
    assert "Traceback" not in result.stderr
    assert "Fatal" not in result.stderr
