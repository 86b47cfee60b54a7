# SPDX-License-Identifier: LGPL-2.1-or-later
"""Expecting an event: armed before the action that causes it; against each engine."""

from __future__ import annotations

from typing import Any

import gevent
import pytest
from worlds import World, outcome, settle

import gxl
from gxl import DiskEject, DomainDeath, DomainShutdown


def test_what_happens_at_once_after_arming_is_not_missed(world: World) -> None:
    ctx = world.open()
    domid = world.host.create_domain("doomed")
    with ctx.expect(DomainDeath, "doomed") as death:
        ctx.domain_destroy(domid)
        event = death.wait(5)
    assert isinstance(event, DomainDeath)
    assert death.event is event
    assert ctx.queued == 0
    assert not ctx._pump.feeds.by_token


def test_an_eject_is_expected_of_one_disk(world: World) -> None:
    ctx = world.open()
    domid = world.host.create_domain()
    world.host.add_disk(domid, "hdc")
    with ctx.expect(DiskEject, domid, vdev="hdc") as eject:
        world.barrier(ctx)
        world.host.eject_disk(domid, "hdc")
        event = eject.wait(5)
    assert isinstance(event, DiskEject)
    assert event.vdev == "hdc"


def test_wait_shutdown_returns_how_the_domain_ended(world: World) -> None:
    ctx = world.open()
    one, two = world.host.create_domain(), world.host.create_domain("two")
    world.host.shutdown_domain(one, 1)
    event = ctx.wait_shutdown(one)
    assert isinstance(event, DomainShutdown)
    assert event.shutdown_reason == 1
    waiter = gevent.spawn(ctx.wait_shutdown, "two", 5)
    settle()
    ctx.list_domain()
    world.host.destroy_domain(two)
    assert isinstance(outcome(waiter), DomainDeath)
    with pytest.raises(gxl.WaitTimeout):
        ctx.wait_shutdown(world.host.create_domain(), timeout=0.01)


def test_what_is_true_already_is_told_with_the_domains_name(world: World) -> None:
    ctx = world.open()
    domid = world.host.create_domain("early")
    world.host.shutdown_domain(domid, 1)
    assert ctx.wait_shutdown(domid, 5).name == "early"
    ended = world.host.create_domain("ended")
    world.host.shutdown_domain(ended, 1)
    with ctx.expect(DomainShutdown, ended, predicate=lambda event: event.name == "ended") as shutdown:
        assert shutdown.wait(5).name == "ended"


def test_a_name_that_does_not_come_is_waited_for_no_longer_than_the_timeout(world: World) -> None:
    ctx = world.open()
    with world.unnamed(ctx) as domid:
        for timeout in (0, 0.02):
            assert ctx.wait_shutdown(domid, timeout).name is None
        with ctx.expect(DomainShutdown, domid) as unread:
            assert unread.event is None
    assert isinstance(unread.wait(0), DomainShutdown)


def test_a_predicate_chooses_and_one_that_raises_surfaces_in_wait(world: World) -> None:
    ctx = world.open()
    domid = world.host.create_domain()
    with (
        ctx.expect(
            (DomainShutdown, DomainDeath), domid, predicate=lambda event: isinstance(event, DomainDeath)
        ) as death,
        ctx.expect(DomainShutdown, domid, predicate=lambda event: 1 / 0) as broken,
    ):
        world.host.shutdown_domain(domid, 0)
        world.barrier(ctx)
        with pytest.raises(ZeroDivisionError):
            broken.wait(5)
        world.host.destroy_domain(domid)
        assert isinstance(death.wait(5), DomainDeath)


def test_one_that_was_never_armed_is_not_waited_for(world: World) -> None:
    ctx = world.open()
    with pytest.raises(gxl.MisuseError, match="`with` block"):
        ctx.expect(DomainDeath, world.host.create_domain()).wait(5)


def test_whoever_waits_learns_that_the_context_or_the_block_has_ended(world: World) -> None:
    ctx = world.open()
    domid = world.host.create_domain()
    with ctx.expect(DomainDeath, domid) as first:
        pass
    with pytest.raises(gxl.MisuseError):
        first.wait(1)
    with pytest.raises(gxl.MisuseError), first:
        pass
    with ctx.expect(DomainDeath, domid) as second:
        waiter = gevent.spawn(second.wait)
        settle()
        ctx.close()
        assert isinstance(outcome(waiter), gxl.ContextClosed)


@pytest.mark.parametrize(
    ("types", "domain", "how", "error"),
    [
        (gxl.OperationComplete, 1, {}, ValueError),
        ((), 1, {}, ValueError),
        (DiskEject, 1, {}, ValueError),
        (DomainDeath, 1, {"vdev": "hdc"}, ValueError),
        ("death", 1, {}, TypeError),
        (DomainDeath, -1, {}, ValueError),
        (DomainDeath, "nobody", {}, LookupError),
    ],
)
def test_bad_input_arms_nothing(world: World, types: Any, domain: Any, how: Any, error: type[Exception]) -> None:
    ctx = world.open()
    with pytest.raises(error):
        ctx.expect(types, domain, **how)


def test_whoever_waited_in_vain_is_told_for_what_and_how_long(world: World) -> None:
    ctx = world.open()
    domid = world.host.create_domain("web1")
    with pytest.raises(gxl.WaitTimeout, match=r"^'web1' has neither shut down nor died within 0\.02 s$"):
        ctx.wait_shutdown("web1", 0.02)
    said = rf"^no DOMAIN_SHUTDOWN or DOMAIN_DEATH of domain {domid} that was expected came within 0\.02 s$"
    with (
        ctx.expect((DomainShutdown, DomainDeath), domid) as end,
        pytest.raises(gxl.WaitTimeout, match=said),
    ):
        end.wait(0.02)
