# SPDX-License-Identifier: LGPL-2.1-or-later
"""The poll hub: the conformance suite, and threads that share a Context."""

from __future__ import annotations

import subprocess
import sys

from gxl.hubhooks.poll import PollHub
from gxl.testing.hubs import HubProviderTests


class TestPollHub(HubProviderTests):
    def make_hub(self) -> PollHub:
        return PollHub()


def test_a_greenlet_is_told_that_waiting_here_would_stop_the_others() -> None:
    program = """
import gevent, gxl
from gxl.engines.embedded import EmbeddedEngine
with gxl.Context(engine=EmbeddedEngine(), hub="poll") as ctx:
    greenlet = gevent.spawn(ctx.event_wait, timeout=5)
    greenlet.join()
    print(type(greenlet.exception).__name__, greenlet.exception)
    try:
        ctx.event_wait(timeout=0.01)  # the main greenlet is this thread's own business
    except gxl.WaitTimeout:
        print("waited")
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    said, waited = run.stdout.splitlines()
    assert said.startswith("MisuseError")
    assert "hub='gevent'" in said
    assert waited == "waited"
