# SPDX-License-Identifier: LGPL-2.1-or-later
"""Runs a program from the documents as its reader would, on a simulated host: `python stage.py PROGRAM`.

On the stage are web1, which has a CD drive, and db1. Whatever domain a program watches crashes at once, and is gone as
soon as the program could know. When nobody lives any more, somebody presses Ctrl-C: so ends what runs for ever.
"""

from __future__ import annotations

import contextlib
import os
import runpy
import signal
import sys
import threading
from types import SimpleNamespace
from typing import Any

import gxl
import gxl.engines.embedded
from gxl.engines.embedded import EmbeddedEngine

CRASH = 3
GRACE = 0.5
"""Seconds from the last death until Ctrl-C."""


class Stage(EmbeddedEngine):
    """The embedded engine, under which the domains of the default host meet their fate when they are watched."""

    def evenable_domain_death(self, domid: int, user: int = 0) -> Any:
        evgen = super().evenable_domain_death(domid, user)
        if self.host is Stage.default_host and domid in {domain.domid for domain in self.host.domains()}:
            self.host.shutdown_domain(domid, CRASH)
        return evgen

    def event_register_callbacks(self, hooks: Any) -> None:
        def occurs(event: gxl.Event) -> None:
            hooks.event_occurs(event)
            if self.host is Stage.default_host and isinstance(event, gxl.DomainShutdown):
                self.host.destroy_domain(event.domid)
                if len(self.host.domains()) == 1:
                    ctrl_c = threading.Timer(GRACE, os.kill, (os.getpid(), signal.SIGINT))
                    ctrl_c.daemon = True
                    ctrl_c.start()

        fateful = SimpleNamespace(
            event_occurs_mask=hooks.event_occurs_mask, event_occurs=occurs, disaster=hooks.disaster
        )
        super().event_register_callbacks(fateful)


def main(program: str) -> None:
    host = gxl.SimHost()
    host.add_disk(host.create_domain("web1"), "hdc")
    host.create_domain("db1")
    Stage.default_host = host
    gxl.engines.embedded.EmbeddedEngine = Stage  # type: ignore[misc]  # replaced on purpose
    os.environ["GXL_ENGINE"] = "embedded"
    with contextlib.suppress(KeyboardInterrupt):
        runpy.run_path(program, run_name="__main__")
    signal.signal(signal.SIGINT, signal.SIG_IGN)


if __name__ == "__main__":
    main(sys.argv[1])
