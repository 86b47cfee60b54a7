# SPDX-License-Identifier: LGPL-2.1-or-later
"""Ejects by a real guest: it writes to its own frontend directory, through its own connection to xenstored."""

from __future__ import annotations

from pathlib import Path

import pytest
from guests import XVDD, Guest, Guests, run

from gxl import Context, DiskEject, WaitTimeout


@pytest.fixture
def guest(guests: Guests, tmp_path: Path) -> Guest:
    """A guest with a CD in a drive that xl, blkback and Debian's own hotplug script made."""
    run("modprobe", "-a", "loop", "xen-blkback")
    image = tmp_path / "cd"
    image.write_bytes(bytes(1 << 20))
    return guests.tiny(disk=f"format=raw,script=block,vdev=xvdd,access=ro,devtype=cdrom,target={image}")


def test_each_eject_by_the_guest_reaches_every_evgen_of_the_disk(ctx: Context, guest: Guest) -> None:
    first = ctx.evenable_disk_eject(guest.domid, "xvdd", user=1)
    ctx.evenable_disk_eject(guest.domid, "d3p0", user=2)  # the same disk by another of its names
    ctx.evenable_disk_eject(guest.domid, "xvde", user=3)
    for _ in range(2):
        guest.order(f"eject {XVDD}")
        events = [ctx.event_wait() for _ in range(2)]
        assert sorted((event.for_user, event.vdev) for event in events if isinstance(event, DiskEject)) == [
            (1, "xvdd"),
            (2, "d3p0"),
        ]
        for event in events:
            assert isinstance(event, DiskEject)
            assert (event.domid, event.name, event.domuuid) == (guest.domid, guest.name, guest.uuid)
            assert (event.disk.is_cdrom, event.disk.removable, event.disk.backend_domid) == (1, 1, 0)
    assert ctx.event_check() is None

    first.disable()
    guest.order(f"eject {XVDD}")
    assert ctx.event_wait().for_user == 2
    with pytest.raises(WaitTimeout):
        ctx.event_wait(timeout=0.5)
