# SPDX-License-Identifier: LGPL-2.1-or-later
"""The two commands on a real Xen host."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator

import pytest
from gevent import subprocess
from guests import Guest, Guests, run

from gxl import DomainDeath, DomainShutdown, ShutdownReason
from gxl.events import from_json


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
    # Its name may not be known yet: it is asked for when watching begins, and the event does not wait for it.
    first = from_json(watching.stdout.readline())
    assert isinstance(first, DomainShutdown)
    assert (first.domid, first.domuuid, first.shutdown_reason) == (ended.domid, ended.uuid, ShutdownReason.REBOOT)

    new = guests.tiny()
    new.order("shutdown 3")
    shutdown = from_json(watching.stdout.readline())
    assert isinstance(shutdown, DomainShutdown)
    assert (shutdown.domid, shutdown.name, shutdown.domuuid) == (new.domid, new.name, new.uuid)
    assert shutdown.shutdown_reason is ShutdownReason.CRASH

    ended.destroy()
    death = from_json(watching.stdout.readline())
    assert isinstance(death, DomainDeath)
    assert (death.domid, death.name, death.domuuid) == (ended.domid, ended.name, ended.uuid)

    watching.send_signal(signal.SIGINT)
    assert watching.stdout.read() == ""
    assert watching.wait(20) in (0, 130)
