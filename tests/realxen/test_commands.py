# SPDX-License-Identifier: LGPL-2.1-or-later
"""The two commands on a real Xen host."""

from __future__ import annotations

import json
import signal
import sys
import uuid
from collections.abc import Iterator

import pytest
from gevent import subprocess
from guests import Guest, Guests, run


def test_doctor_finds_the_library_of_the_running_xen() -> None:
    said = run(sys.executable, "-m", "gxl", "doctor")
    assert "libxl" in said
    assert "4.17" in said
    assert "gevent" in said


@pytest.fixture
def ended(guests: Guests) -> Guest:
    """A domain that ends, or has ended, when watching begins: its line says that it has begun."""
    guest = guests.tiny()
    guest.order("shutdown 1")
    return guest


@pytest.fixture
def watching(ended: Guest) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "gxl", "watch", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    yield process
    if process.poll() is None:
        process.kill()
        process.wait()


def test_watch_prints_what_happens_to_domains_old_and_new(
    guests: Guests, ended: Guest, watching: subprocess.Popen[str]
) -> None:
    assert watching.stdout is not None
    assert _shown(watching.stdout.readline()) == ("domain_shutdown", ended, "reboot")

    new = guests.tiny()
    new.order("shutdown 3")
    assert _shown(watching.stdout.readline()) == ("domain_shutdown", new, "crash")
    ended.destroy()
    assert _shown(watching.stdout.readline()) == ("domain_death", ended, None)

    watching.send_signal(signal.SIGINT)
    assert watching.stdout.read() == ""
    assert watching.wait(20) in (0, 130)


def _shown(line: str) -> tuple[str, Guest, str | None]:
    event = json.loads(line)
    guest = Guest(event["name"], event["domid"], uuid.UUID(event["uuid"]))
    return event["type"], guest, event.get("shutdown_reason")
