# SPDX-License-Identifier: LGPL-2.1-or-later
"""Domains by name or UUID wherever a domid goes; against each engine, in greenlets and in threads."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from worlds import World

import gxl
from gxl import DiskEject, DomainDeath, DomainShutdown

HUBS = ("gevent", "poll")

Way = Callable[[World, int], int | str | UUID]
WAYS: list[Way] = [
    lambda world, domid: domid,
    lambda world, domid: "web1",
    lambda world, domid: world.host.domain_info(domid).uuid,
    lambda world, domid: str(world.host.domain_info(domid).uuid).upper(),
]


def rename(world: World, domid: int, name: bytes) -> None:
    world.host.write(f"/local/domain/{domid}/name", name)


@pytest.mark.parametrize("way", WAYS, ids=["domid", "name", "uuid", "uuid as text"])
def test_whatever_takes_a_domid_takes_a_name_and_a_uuid(world: World, way: Way) -> None:
    ctx = world.open()
    domid = world.host.create_domain("web1")
    world.host.add_disk(domid, "hdc")
    domain = way(world, domid)
    assert ctx.domid_of(domain) == domid
    assert ctx.domain_pause(domain).domid == domid
    assert ctx.domain_unpause(domain, wait=False).domid == domid
    with ctx.evenable_domain_death(domain, user=1) as death, ctx.evenable_disk_eject(domain, "hdc", user=2) as eject:
        assert death.domid == eject.domid == domid
        world.barrier(ctx)
        with ctx.expect(DiskEject, domain, vdev="hdc") as ejected:
            world.host.eject_disk(domid, "hdc")
            assert ejected.wait(5).domuuid == world.host.domain_info(domid).uuid
        assert isinstance(ctx.event_wait(domid=domain, timeout=5), DiskEject)
        assert ctx.event_check(domid=domain) is None
        watcher = ctx.watch(domain)
        with ctx.expect(DomainDeath, domain) as expected:
            ctx.domain_shutdown(domain, timeout=5)
            assert ctx.wait_shutdown(domain, timeout=5).domid == domid
            assert isinstance(ctx.event_wait(domid=domain, timeout=5), DomainShutdown)
            # Nobody serves the disk's backend, and libxl would wait two seconds for it to close.
            world.host.rm(f"/libxl/{domid}/device")
            ctx.domain_destroy(domain, timeout=10)
            assert expected.wait(5).name == "web1"
        assert [type(event) for event in watcher] == [DomainShutdown, DomainDeath]
        # By now nobody is called so any more, but for the events.
        world.barrier(ctx)
        last = ctx.event_check(domid=domain)
        assert isinstance(last, DomainDeath)
        assert (last.domid, last.name, last.for_user) == (domid, "web1", 1)


def test_a_domain_that_is_gone_is_waited_for_by_its_name_as_long_as_it_is_watched(world: World) -> None:
    ctx = world.open()
    domid = world.host.create_domain("brief")
    ctx.evenable_domain_death(domid)
    world.barrier(ctx)
    with world.host.quiet():
        world.host.destroy_domain(domid)
        with pytest.raises(gxl.WaitTimeout):
            ctx.event_wait(domid="brief", timeout=0.02)
    assert ctx.event_wait(domid="brief", timeout=5).domid == domid
    with pytest.raises(LookupError, match="'brief'"):
        ctx.event_wait(domid="brief", timeout=5)


UNKNOWN: list[Callable[[gxl.Context, Any], object]] = [
    lambda ctx, domain: ctx.domid_of(domain),
    lambda ctx, domain: ctx.domain_destroy(domain),
    lambda ctx, domain: ctx.domain_destroy(domain, wait=False),
    lambda ctx, domain: ctx.domain_suspend(domain, 1),
    lambda ctx, domain: ctx.cdrom_insert(domain, "hdc", None),
    lambda ctx, domain: ctx.evenable_domain_death(domain),
    lambda ctx, domain: ctx.evenable_disk_eject(domain, "hdc"),
    lambda ctx, domain: ctx.event_wait(domid=domain, timeout=5),
    lambda ctx, domain: ctx.expect(DomainDeath, domain),
    lambda ctx, domain: ctx.watch(domain),
    lambda ctx, domain: ctx.wait_shutdown(domain),
]


@pytest.mark.parametrize(
    ("domain", "said"),
    [
        ("web2", r"no domain is called 'web2'; there are 0 'Domain-0', \d+ 'web1'"),
        ("7", "a domid is given as an int: 7"),
        (UUID(int=5), "no domain has the UUID 00000000-0000-0000-0000-000000000005; there are 0 0000.*, \\d+ "),
        (str(UUID(int=5)), "'00000000-0000-0000-0000-000000000005'"),
    ],
)
def test_an_unknown_domain_is_named_with_what_there_is(world: World, domain: object, said: str) -> None:
    ctx = world.open()
    world.host.create_domain("web1")
    for call in UNKNOWN:
        with pytest.raises(LookupError, match=said):
            call(ctx, domain)
    assert not ctx._pump.feeds.by_token
    assert not ctx._pump.enders
    assert not ctx._pump.askers
    assert not ctx._pump.operations


def test_a_name_that_two_domains_have_means_neither(world: World) -> None:
    ctx = world.open()
    first, second = world.host.create_domain("twin"), world.host.create_domain("other")
    rename(world, second, b"twin")
    for call in UNKNOWN:
        with pytest.raises(LookupError, match=rf"'twin' means no single domain; called so are {first}, {second}"):
            call(ctx, "twin")
    assert {first, second} <= {domain.domid for domain in ctx.list_domain()}


@pytest.mark.parametrize("domain", ["", 1.0, None, True, -1, 2**32, b"web1", [1], ["web1", "web2"]])
def test_what_means_no_domain_at_all_is_refused(world: World, domain: Any) -> None:
    ctx = world.open()
    said = "must be from 0|can't be empty|is given by its domid .*, its name or its UUID, not by " + re.escape(
        str(domain)
    )
    for call in (ctx.domid_of, ctx.domain_destroy, ctx.watch, ctx.evenable_domain_death):
        with pytest.raises((TypeError, ValueError), match=said):
            call(domain)
    if domain is not None:
        with pytest.raises((TypeError, ValueError), match=said):
            ctx.event_check(domid=domain)


def test_text_is_never_a_domid(world: World) -> None:
    ctx = world.open()
    other = world.host.create_domain("other")
    named = world.host.create_domain(str(other))
    assert ctx.domid_of(str(other)) == named


def test_a_guest_that_is_called_like_anothers_uuid_is_not_taken_for_it(world: World) -> None:
    ctx = world.open()
    victim = world.host.create_domain("victim")
    uuid = world.host.domain_info(victim).uuid
    hostile = world.host.create_domain("hostile")
    rename(world, hostile, str(uuid).encode())
    assert ctx.domid_of(str(uuid)) == ctx.domid_of(uuid) == victim
    # Text that is no UUID in its usual form is a name.
    rename(world, hostile, uuid.hex.encode())
    assert ctx.domid_of(uuid.hex) == hostile


@pytest.mark.parametrize(
    "name",
    [b"\xff\xfe", b"\x1b[2J\r\n", b" ", b"0" * 3000, "dom\N{LATIN SMALL LETTER A WITH DIAERESIS}".encode(), b"'"],
)
def test_a_name_may_be_any_bytes(world: World, name: bytes) -> None:
    ctx = world.open()
    domid = world.host.create_domain("plain")
    rename(world, domid, name)
    shown = next(domain.name for domain in ctx.list_domain() if domain.domid == domid)
    assert shown is not None
    assert ctx.domid_of(shown) == domid
    with pytest.raises(LookupError) as caught:
        ctx.domid_of("web1")
    # It goes to a terminal, or a log: in one line that is not endless.
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


def test_two_names_that_look_alike_are_ambiguous(world: World) -> None:
    ctx = world.open()
    for name in (b"web\xff", b"web\\xff"):
        rename(world, world.host.create_domain("plain"), name)
    with pytest.raises(LookupError, match="no single domain"):
        ctx.domid_of("web\\xff")


def test_a_domid_that_went_to_another_while_the_name_was_asked_for_is_not_returned(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    ctx = world.open()
    domid = world.host.create_domain("old")
    side = ctx._pump.side
    ask = side.name_of

    def ask_then_replace(asked: int, then: Callable[[str | None], object]) -> None:
        def replace(name: str | None) -> None:
            if asked == domid:
                world.host.destroy_domain(domid)
                world.host.create_domain("new", domid)
            then(name)

        # In a patched process the host is called by a socket that must not block the hub.
        ask(asked, lambda name: ctx._pump.aside(lambda: replace(name)))

    monkeypatch.setattr(side, "name_of", ask_then_replace)
    with pytest.raises(LookupError, match=rf"domain {domid}, which was called 'old', is gone"):
        ctx.domain_destroy("old")
    monkeypatch.undo()
    assert ctx.domid_of("new") == domid


def test_the_error_does_not_list_a_whole_data_centre(world: World) -> None:
    ctx = world.open()
    for number in range(30):
        world.host.create_domain(f"web{number}")
    with pytest.raises(LookupError, match="and 11 more") as caught:
        ctx.domid_of("web99")
    assert len(str(caught.value)) < 500


def test_a_name_that_does_not_come_in_time_is_a_timeout(world: World) -> None:
    ctx = world.open()
    domid = world.host.create_domain("slow")
    with world.host.stalled():
        for call in (ctx.wait_shutdown, ctx.watch, ctx.domain_pause):
            with pytest.raises(gxl.WaitTimeout):
                call("slow", timeout=0.02)
        with pytest.raises(gxl.WaitTimeout):
            ctx.event_wait(domid="slow", timeout=0.02)
    assert ctx.domid_of("slow") == domid
    assert not ctx._pump.enders


def test_a_name_in_an_error_is_shown_as_it_was_given(world: World) -> None:
    ctx = world.open()
    with pytest.raises(LookupError, match=re.escape(repr("a\nb"))):
        ctx.domid_of("a\nb")
