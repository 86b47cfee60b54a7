# SPDX-License-Identifier: LGPL-2.1-or-later
"""A real guest that tries to forge another's events, and one that floods, each through its own ring to xenstored."""

from __future__ import annotations

from pathlib import Path

import gevent
import pytest
from guests import XVDD, Guest, Guests, run
from pace import Pace

from gxl import Context, DiskEject, DomainDeath, EventsLost, WaitTimeout, floods


def with_a_cd(guests: Guests, folder: Path, name: str) -> Guest:
    run("modprobe", "-a", "loop", "xen-blkback")
    image = folder / name
    image.write_bytes(bytes(1 << 20))
    return guests.tiny(disk=f"format=raw,script=block,vdev=xvdd,access=ro,devtype=cdrom,target={image}")


def obeyed(guest: Guest, order: str) -> None:
    """Give an order, and wait until it has been carried out."""
    guest.order(order)
    while run("xenstore-read", f"/local/domain/{guest.domid}/data/answer").strip() != order:
        gevent.sleep(0.02)


def answer(guest: Guest, path: str, value: str) -> str:
    """What xenstored says to the guest when it tries to write this."""
    obeyed(guest, f"write {path} {value}")
    return run("xenstore-read", f"/local/domain/{guest.domid}/data/result").strip()


def test_a_guest_can_not_forge_anothers_events(ctx: Context, guests: Guests, tmp_path: Path) -> None:
    victim, attacker = (with_a_cd(guests, tmp_path, name) for name in ("victim", "attacker"))
    for guest in (victim, attacker):
        ctx.evenable_disk_eject(guest.domid, "xvdd", user=guest.domid)
        ctx.evenable_domain_death(guest.domid, user=guest.domid)
    theirs = f"/local/domain/{victim.domid}"
    for node in (f"device/vbd/{XVDD}/eject", f"device/vbd/{XVDD}/dev", "control/shutdown", "name"):
        assert answer(attacker, f"{theirs}/{node}", "eject") == "EACCES"
    assert answer(attacker, "@releaseDomain", "x") == "EINVAL"
    assert answer(attacker, "name", "eject") == "EACCES"

    # Its own disk's nodes are its own, and may speak of others.
    backend = f"/local/domain/{attacker.domid}/device/vbd/{XVDD}/backend"
    honest = run("xenstore-read", backend).strip()
    assert answer(attacker, f"device/vbd/{XVDD}/dev", "hda") == "OK"
    assert answer(attacker, f"device/vbd/{XVDD}/backend", f"{theirs}/backend/vbd/1/1") == "OK"
    obeyed(attacker, f"eject {XVDD}")
    event = ctx.event_wait()
    assert isinstance(event, DiskEject)
    assert (event.domid, event.for_user, event.vdev) == (attacker.domid, attacker.domid, "xvdd")
    assert (event.name, event.domuuid) == (attacker.name, attacker.uuid)
    assert event.disk.backend_domid == victim.domid
    run("xenstore-write", backend, honest)  # or xl waits in vain for another backend when it destroys the domain
    with pytest.raises(WaitTimeout):
        ctx.event_wait(timeout=1)


def test_a_guest_that_floods_is_not_listened_to_and_others_are(
    ctx: Context, guests: Guests, tmp_path: Path, pace: Pace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(floods, "EJECTS_AT_ONCE", 3)
    monkeypatch.setattr(floods, "EJECTS_PER_SECOND", 0)
    victim, attacker = (with_a_cd(guests, tmp_path, name) for name in ("victim", "attacker"))
    ctx.evenable_disk_eject(victim.domid, "xvdd", user=1)
    noisy = ctx.evenable_disk_eject(attacker.domid, "xvdd", user=2)
    ctx.evenable_domain_death(victim.domid, user=3)
    # Many of its writes are one eject: those that libxl has not seen before the next.
    for times in range(50, 58):
        obeyed(attacker, f"flood {XVDD} {times}")
        if noisy.flooded:
            break
    while not isinstance(lost := ctx.event_wait(user=2, timeout=60), EventsLost):
        assert isinstance(lost, DiskEject)
    assert (lost.domid, noisy.flooded) == (attacker.domid, True)
    victim.order(f"eject {XVDD}")
    assert isinstance(ctx.event_wait(user=1, timeout=60), DiskEject)
    victim.destroy()
    assert isinstance(ctx.event_wait(user=3, timeout=60), DomainDeath)
    assert ctx.event_check() is None
    longest = ctx.metrics().pump_longest_turn
    print(f"flood: longest turn of the pump {longest:.3f} s, longest gap of a ticker {max(pace.gaps):.3f} s")
