# SPDX-License-Identifier: LGPL-2.1-or-later
"""The example that was written for threads, unchanged in a patched process, with real domains."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from urllib.request import urlopen

import gevent
from gevent import subprocess
from guests import Guests

APP = Path(__file__).parents[2] / "examples" / "legacy_app.py"


def test_it_serves_runs_its_commands_and_gets_every_event(guests: Guests) -> None:
    pair = [guests.tiny(), guests.tiny()]
    with subprocess.Popen(
        [sys.executable, "-m", "gevent.monkey", str(APP), "2"],
        env={**os.environ, "PYTHONPATH": str(APP.parents[1]), "GXL_ENGINE": "libxl"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().split()[-1]
            pair[0].order("shutdown 1")
            for guest in pair:
                # Destroys it, and libxl forks a child for that.
                answer = gevent.get_hub().threadpool.apply(_post, (f"{url}destroy/{guest.domid}",))
                assert answer == f"domain {guest.domid} is destroyed"
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 0, err
    events = json.loads(out)["events"]
    assert [event["domid"] for event in events if event["event"] == "DomainDeath"] == [guest.domid for guest in pair]
    assert [event["code"] for event in events] == list(range(len(events)))


def _post(url: str) -> object:
    with urlopen(url, data=b"", timeout=50) as answer:
        return json.load(answer)
