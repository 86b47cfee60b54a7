# SPDX-License-Identifier: LGPL-2.1-or-later
"""Guests that lie, forge and flood, with each engine: written as that guest, with the rights that it has."""

from __future__ import annotations

import json
import logging
import re
from collections import Counter

import gevent
import pytest
from worlds import World, outcome, until

from gxl import DiskEject, DomainDeath, DomainShutdown, EventsLost, GxlError, floods
from gxl.events import from_json

XVDA = 51712


@pytest.fixture
def guests(world: World) -> tuple[int, int]:
    """Two guests, each with a CD drive."""
    made = world.host.create_domain("victim"), world.host.create_domain("attacker")
    for domid in made:
        world.host.add_disk(domid, "xvda")
    return made


def node(domid: int, name: str = "eject") -> str:
    return f"/local/domain/{domid}/device/vbd/{XVDA}/{name}"


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> int:
    """A limit that is reached soon, and does not grow meanwhile."""
    monkeypatch.setattr(floods, "EJECTS_AT_ONCE", 20)
    monkeypatch.setattr(floods, "EJECTS_PER_SECOND", 0)
    return 20


def test_a_guest_can_not_forge_anothers_events(world: World, guests: tuple[int, int]) -> None:
    victim, attacker = guests
    ctx = world.open()
    for domid in guests:
        ctx.evenable_disk_eject(domid, "xvda", user=domid)
        ctx.evenable_domain_death(domid, user=domid)
    mine, theirs = f"/local/domain/{attacker}", f"/local/domain/{victim}"
    for path in (
        *(node(victim), node(victim, "backend"), node(victim, "dev"), f"{theirs}/control/shutdown", f"{theirs}/name"),
        *(f"{theirs}/image/device-model-domid", f"{mine}/image/device-model-domid", f"{mine}/name"),
        *(f"{mine}/device/vbd/{XVDA + 16}/eject", f"/libxl/{victim}/device/vbd/{XVDA}/backend"),
        f"/local/domain/0/backend/qdisk/{victim}/{XVDA}/state",
    ):
        with pytest.raises(PermissionError):
            world.host.write(path, "eject", attacker)
    for path in ("@releaseDomain", f"../{victim}/device/vbd/{XVDA}/eject", f"{mine}/../{victim}/name"):
        with pytest.raises(OSError, match="Invalid"):
            world.host.write(path, "eject", attacker)

    # What it may write: its own disk's nodes, with the victim's in them.
    world.host.write(node(attacker, "backend"), f"/local/domain/{victim}/backend/vbd/{victim}/{XVDA}", attacker)
    world.host.write(node(attacker, "dev"), "xvdb", attacker)
    world.host.write(node(attacker), "eject", attacker)
    [event] = world.drained(ctx, 1)
    assert isinstance(event, DiskEject)
    assert (event.domid, event.for_user, event.vdev, event.name) == (attacker, attacker, "xvda", "attacker")
    assert event.domuuid == world.host.domain_info(attacker).uuid
    # Only in what the guest says of its disk does it speak of others.
    assert event.disk.backend_domid == victim


CLAIMS = [
    *(b"", b"\0", b"\xff\xfe\x80", b"xvda\n\x1b]0;owned\x07\x1b[2J\r", b"%s%n%s", "ü\u202ex".encode(), b"x" * 1900),
    *(b"/local/domain/4294967296/backend/vbd/1/1", b"/local/domain/-1/backend/qdisk/1/1", b"/local/domain/0/backend/"),
    *(b"/local/domain/0/backend/" + b"q" * 300 + b"/1/1", b"//", b"/local/domain/0/backend/vbd3/1/1"),
]


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: repr(claim)[:24])
def test_whatever_a_guest_claims_of_its_disk_is_an_event_that_can_be_shown_and_kept(
    world: World, guests: tuple[int, int], claim: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    from gxl.cli.text import line

    caplog.set_level(logging.DEBUG, "gxl")
    attacker = guests[1]
    world.host.write(node(attacker, "dev"), claim, attacker)
    world.host.write(node(attacker, "backend"), claim, attacker)
    ctx = world.open()
    ctx.evenable_disk_eject(attacker, "xvda", user=7)
    world.host.write(node(attacker), "eject", attacker)
    [event] = world.drained(ctx, 1)
    assert isinstance(event, DiskEject)
    assert (event.domid, event.for_user, event.vdev) == (attacker, 7, "xvda")
    text = event.to_json()
    assert from_json(text) == event
    assert "\n" not in text
    json.loads(text)
    assert line(event, event.name, colours=False).isprintable()
    for record in caplog.records:
        assert not re.search(r"[\x00-\x1f\x7f-\x9f]", record.getMessage()), "a guest wrote a log line of its own"


def test_a_hundred_odd_values_of_eject_itself_are_no_ejects(world: World, guests: tuple[int, int]) -> None:
    ctx = world.open()
    ctx.evenable_disk_eject(guests[1], "xvda")
    for number in range(100):
        world.host.write(node(guests[1]), b"EJECT"[: number % 6] + bytes([number]) * (number * 19), guests[1])
    assert world.drained(ctx) == []


def test_a_guest_that_floods_is_not_listened_to_and_others_are(
    world: World, guests: tuple[int, int], few: int, caplog: pytest.LogCaptureFixture
) -> None:
    victim, attacker = guests
    ctx = world.open()
    honest = [world.host.create_domain() for _ in range(5)]
    quiet = ctx.evenable_disk_eject(victim, "xvda", user=1)
    noisy = [ctx.evenable_disk_eject(attacker, vdev, user=user) for vdev, user in (("xvda", 2), ("d0p0", 3))]
    for domid in honest:
        ctx.evenable_domain_death(domid, user=100 + domid)
    for number in range(few + 30):
        world.host.write(node(attacker), "eject", attacker)
        if number % 5 == 0:
            world.host.eject_disk(victim, "xvda")
            # Each is taken before the next: a value that is overwritten unread is one eject.
            until(lambda: not world.host.read(node(victim)))
        if number % 10 == 0:
            world.host.destroy_domain(honest.pop())
        until(lambda: not world.host.read(node(attacker)) or noisy[0].flooded)
    events = world.drained(ctx)
    kinds = Counter((type(event), event.for_user) for event in events)
    assert kinds[DiskEject, 1] == (few + 30) // 5
    assert kinds[DiskEject, 2] == kinds[DiskEject, 3] == few
    assert kinds[EventsLost, 2] == kinds[EventsLost, 3] == 1
    deaths = [event.for_user for event in events if isinstance(event, DomainDeath)]
    assert len(deaths) == len(set(deaths)) == 5
    assert all(evgen.flooded and "flooded" in repr(evgen) for evgen in noisy)
    assert not quiet.flooded
    lost = next(event for event in events if isinstance(event, EventsLost))
    assert (lost.domid, lost.name, lost.domuuid) == (attacker, "attacker", world.host.domain_info(attacker).uuid)
    assert ctx.metrics().floods == 1
    settle_log = [record.getMessage() for record in caplog.records if "not listened to" in record.getMessage()]
    assert settle_log == [f"domain {attacker} ejects disk xvda all the time, and is not listened to any more"]
    # The request that is still there is seen by whoever enables anew, and from then on all is as before.
    noisy[0].disable()
    again = ctx.evenable_disk_eject(attacker, "xvda", user=4)
    event = ctx.event_wait(user=4, timeout=10)
    assert isinstance(event, DiskEject)
    world.host.write(node(attacker), "eject", attacker)
    assert isinstance(ctx.event_wait(user=4, timeout=10), DiskEject)
    assert not again.flooded


def test_who_expects_an_eject_is_told_that_none_will_come(world: World, guests: tuple[int, int], few: int) -> None:
    attacker = guests[1]
    ctx = world.open()

    def expect() -> None:
        with ctx.expect(DiskEject, attacker, vdev="xvda", predicate=lambda event: False) as eject:
            eject.wait(timeout=20)

    waiting = gevent.spawn(expect)
    until(lambda: ctx.metrics().evgens)
    for _ in range(few + 1):
        world.host.write(node(attacker), "eject", attacker)
        until(lambda: not world.host.read(node(attacker)) or waiting.ready())
    error = outcome(waiting)
    assert type(error) is GxlError
    assert "so often" in str(error)


def test_an_honest_pace_goes_on_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("gxl.floods.time.monotonic", lambda: now[0])
    allowance = floods.Allowance()
    for _ in range(10 * floods.EJECTS_AT_ONCE):
        now[0] += 1 / floods.EJECTS_PER_SECOND
        assert allowance.spend()
    taken = 0
    while allowance.spend():
        taken += 1
    assert taken == floods.EJECTS_AT_ONCE - 1
    now[0] += 1
    assert [allowance.spend() for _ in range(101)] == [*[True] * 100, False]


def test_a_shutdown_reason_that_no_release_has_is_a_number(world: World, guests: tuple[int, int]) -> None:
    ctx = world.open()
    ctx.evenable_domain_death(guests[1])
    world.host.shutdown_domain(guests[1], 250)
    [event] = world.drained(ctx, 1)
    assert isinstance(event, DomainShutdown)
    assert event.shutdown_reason == 250
