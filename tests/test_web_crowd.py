# SPDX-License-Identifier: LGPL-2.1-or-later
"""Many browsers at once, and one that does not read: counted in the server, which is a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent

CROWD = """
import gc, os, resource, sys, time
import gevent, greenlet
from gevent import socket
from web_client import serving
import gxl
from gxl.engines.embedded import EmbeddedEngine
from gxl.web import Application

COUNT = 1000
_, most = resource.getrlimit(resource.RLIMIT_NOFILE)
if most < 2 * COUNT + 200:
    sys.exit(f"only {most} files may be open at a time")
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))

def threads():
    return len(os.listdir("/proc/self/task"))

def greenlets():
    return sum(isinstance(one, greenlet.greenlet) and not one.dead for one in gc.get_objects())

def follow():
    browser = socket.socket()
    browser.connect(("127.0.0.1", server.server_port))  # create_connection looks names up, in a thread
    browser.sendall(b"GET /api/stream HTTP/1.0\\r\\nHost: localhost\\r\\n\\r\\n")
    return browser

def read_until(browser, wanted):
    text = b""
    while wanted not in text:
        data = browser.recv(65536)
        assert data, text
        text += data

host = gxl.SimHost()
with gxl.Context(EmbeddedEngine(host), "gevent") as ctx:
    application = Application(ctx)
    with serving(application, backlog=COUNT) as server, gevent.Timeout(120):
        domid = host.create_domain("web1")
        gevent.sleep(0.2)
        before = threads(), greenlets(), ctx.metrics().feeds
        browsers = [follow() for _ in range(COUNT)]
        for browser in browsers:
            read_until(browser, b"web1")
        assert application._board.readers == COUNT
        after = threads(), greenlets(), ctx.metrics().feeds
        host.shutdown_domain(domid, 3)
        started = time.monotonic()
        for browser in browsers:
            read_until(browser, b"domain_shutdown")
        print(*before, *after, f"{time.monotonic() - started:.3f}")
        for browser in browsers:
            browser.close()
    application.close()
"""

STUCK = """
import sys
import gevent
from gevent import socket
from web_client import Browser, serving
import gxl
from gxl.engines.embedded import EmbeddedEngine
from gxl.web import Application, application as module

module.STALLED = 1.0
host = gxl.SimHost()
with gxl.Context(EmbeddedEngine(host), "gevent") as ctx:
    application = Application(ctx)
    with serving(application) as server, gevent.Timeout(60):
        stuck = socket.socket()
        stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stuck.connect(("127.0.0.1", server.server_port))
        stuck.sendall(b"GET /api/stream HTTP/1.0\\r\\nHost: localhost\\r\\n\\r\\n")
        with Browser(server) as lively:
            lively.next("domains")
            assert application._board.readers == 2
            sent = 0
            while application._board.readers == 2:  # until it is sent away
                for _ in range(200):
                    sent += 1
                    application.show(gxl.DomainDeath(sent, seq=sent, time=0.0, name="x" * 1000))
                while lively.next("event")["seq"] != sent:
                    pass
        print(sent, application._board.missed)
        stuck.close()
    application.close()
"""

SLOW = """
import sys
import gevent
from gevent import socket
from web_client import Browser, serving
import gxl
from gxl.engines.embedded import EmbeddedEngine
from gxl.web import Application

host = gxl.SimHost()
with gxl.Context(EmbeddedEngine(host), "gevent") as ctx:
    application = Application(ctx)
    with serving(application) as server, gevent.Timeout(60):
        with Browser(server) as slow, Browser(server) as quick:
            slow.next("domains")
            sent = 0
            for _ in range(60):  # 12 MB: more than any socket holds
                for _ in range(200):
                    sent += 1
                    application.show(gxl.DomainDeath(sent, seq=sent, time=0.0, name="x" * 1000))
                while quick.next("event")["seq"] != sent:
                    pass
            seen, told = set(), 0
            while sent not in seen:
                slow.read()
                while slow.waiting:
                    kind, data = slow.waiting.popleft()
                    if kind == "event":
                        assert data["seq"] not in seen
                        seen.add(data["seq"])
                    elif kind == "missed":
                        told += data["count"]
            print(sent, len(seen), told)
    application.close()
"""


def ran(program: str) -> list[float]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    command = [sys.executable, "-W", "error", "-c", program]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    return [float(figure) for figure in done.stdout.split()]


def test_a_thousand_browsers_cost_a_greenlet_each_no_thread_and_libxl_nothing() -> None:
    threads, greenlets, feeds, threads_then, greenlets_then, feeds_then, seconds = ran(CROWD)
    assert (threads, threads_then) == (1, 1)
    assert greenlets_then - greenlets <= 1000
    assert (feeds, feeds_then) == (1, 1)
    # All of them, on a busy machine; the figure is for the reader of a failure.
    assert seconds < 60


def test_a_browser_that_never_reads_delays_nobody_and_is_sent_away() -> None:
    sent, missed = ran(STUCK)
    assert sent > 200
    assert missed == 0  # of the one that reads


def test_a_slow_browser_is_told_how_many_events_it_missed_and_misses_no_other() -> None:
    sent, seen, told = ran(SLOW)
    assert told > 0
    assert seen + told == sent
