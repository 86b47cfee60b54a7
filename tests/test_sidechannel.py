# SPDX-License-Identifier: LGPL-2.1-or-later
"""The Context's own connection to xenstored: its death, names, new domains; against each engine."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import gevent
import pytest
from worlds import World, outcome, settle, until
from zope.interface.verify import verifyObject

import gxl
from gxl.hubhooks import choose
from gxl.interfaces import IOSEventHooks, IStoreConnection
from gxl.sidechannel import SideChannel
from gxl.xenstore import Decoder, Message, Operation, encode


def test_a_xenstored_that_dies_is_a_disaster_for_every_waiter(world: World) -> None:
    ctx = world.open()
    domid = world.host.create_domain()
    ctx.evenable_domain_death(domid)
    # libxl is silent about it only while it has heard all there was to hear; then its own report would come first.
    world.barrier(ctx)
    waiters = [gevent.spawn(ctx.event_wait) for _ in range(3)]
    settle()
    world.host.drop_connections()
    errors = [outcome(waiter) for waiter in waiters]
    assert all(isinstance(error, gxl.Disaster) for error in errors)
    assert len(set(map(id, errors))) == 3
    assert "xenstored" in str(errors[0])
    for call in (ctx.event_wait, ctx.event_check, ctx.list_domain, lambda: ctx.evenable_domain_death(1)):
        with pytest.raises(gxl.Disaster):
            call()


def test_whoever_expects_watches_or_operates_gets_the_disaster_too(world: World) -> None:
    ctx = world.open()
    domid, paused = world.host.create_domain(), world.host.create_domain(paused=True)
    world.host.add_disk(domid, "xvda")
    with ctx.expect(gxl.DomainDeath, domid) as death, ctx.expect(gxl.DiskEject, domid, vdev="xvda") as eject:
        calls: list[Callable[[], object]] = [
            *(death.wait, eject.wait, partial(ctx.wait_shutdown, domid), partial(ctx.domain_shutdown, paused)),
            *(partial(next, ctx.watch(domid)), partial(next, ctx.watch())),
        ]
        waiters = [gevent.spawn(call) for call in calls]
        settle()
        world.host.drop_connections()
        assert {type(outcome(waiter)) for waiter in waiters} == {gxl.Disaster}


def test_events_that_came_before_the_disaster_can_still_be_taken(world: World) -> None:
    ctx = world.open()
    domid = world.host.create_domain()
    ctx.evenable_domain_death(domid)
    world.host.destroy_domain(domid)
    until(lambda: ctx.queued)
    waiter = gevent.spawn(ctx.event_wait, gxl.mask(gxl.DiskEject))
    settle()
    world.host.drop_connections()
    assert isinstance(outcome(waiter), gxl.Disaster)
    assert isinstance(ctx.event_check(), gxl.DomainDeath)
    with pytest.raises(gxl.Disaster):
        ctx.event_check()


def test_a_store_that_answers_late_delays_names_and_nothing_else(world: World) -> None:
    ctx = world.open()
    domid = world.host.create_domain("slow")
    other = world.host.create_domain("other")
    ctx.evenable_domain_death(other)
    world.barrier(ctx)
    with world.host.stalled():
        listing = gevent.spawn(ctx.list_domain)
        gevent.sleep(0.05)
        assert not listing.ready()
    assert [domain.name for domain in outcome(listing) if domain.domid == domid] == ["slow"]


def test_a_name_that_is_not_text_is_shown_not_trusted(world: World) -> None:
    ctx = world.open()
    domid = world.host.create_domain("plain")
    world.host.write(f"/local/domain/{domid}/name", b"\xff\xfe\x1b[31m")
    names = {domain.domid: domain.name for domain in ctx.list_domain()}
    assert names[domid] == "\\xff\\xfe\x1b[31m"


class Recorder:
    """IOSEventHooks that remember."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Any:
        def record(*args: Any) -> str:
            self.calls.append((name, *args))
            return "registration"

        return record


class Device:
    """A connection like /dev/xen/xenbus: no socket, so no end of file."""

    def __init__(self) -> None:
        self.reading, self.writing = os.pipe()
        os.set_blocking(self.reading, False)
        self.sent = b""

    def fileno(self) -> int:
        return self.reading

    def recv(self, size: int) -> bytes:
        return os.read(self.reading, size)

    def send(self, data: bytes) -> int:
        self.sent += data
        return len(data)

    def close(self) -> None:
        os.close(self.reading)
        os.close(self.writing)


def test_where_there_is_no_end_of_file_a_ping_that_is_not_answered_tells() -> None:
    hooks, device = Recorder(), Device()
    lost: list[str] = []
    side = SideChannel(device, hooks, lambda why, *_: lost.append(why), lambda: None, lambda f: f())  # type: ignore[arg-type]  # the device has of a connection only what is needed here
    assert [name for name, *_ in hooks.calls] == ["fd_register", "timeout_register"]
    side.ping()
    assert not lost
    side.ping()
    assert len(lost) == 1
    assert "not answered" in lost[0]
    assert hooks.calls[-1][0] == "fd_deregister"


def test_a_connection_that_takes_nothing_now_is_asked_again_when_it_can() -> None:
    hooks, device = Recorder(), Device()
    taken = [5, 10**6]
    device.send = lambda data: taken.pop(0) if taken[0] < len(data) else len(data)  # type: ignore[method-assign]  # replaced on purpose
    side = SideChannel(device, hooks, lambda *_: None, lambda: None, lambda f: f())  # type: ignore[arg-type]  # the device has of a connection only what is needed here
    side.close()
    side.close()
    assert [name for name, *_ in hooks.calls].count("fd_deregister") == 1


def _told(side: SideChannel, device: Device, *events: bytes) -> None:
    for path in events:
        os.write(device.writing, encode(Message(Operation.WATCH_EVENT, 0, 0, path + b"\0gxl\0")))


def test_what_has_appeared_is_certain_only_once_it_was_looked_at() -> None:
    device = Device()
    looks: list[bool] = []
    side: SideChannel

    def look() -> None:
        looks.append(side.catch_up())

    side = SideChannel(device, Recorder(), lambda *_: None, look, lambda f: None)  # type: ignore[arg-type]  # the device has of a connection only what is needed here
    # xenstored may not have taken the watch yet.
    assert not side.catch_up()
    _told(side, device, b"@introduceDomain")
    assert not side.catch_up()
    side.ready()
    # While the domains are being looked at, what is delivered is older than the result.
    assert looks == [False]
    assert side.catch_up()
    _told(side, device, b"@introduceDomain", b"@introduceDomain")
    assert not side.catch_up()
    assert not side.catch_up()
    side.ready()
    assert side.catch_up()
    side.close()
    assert not side.catch_up()


def test_nothing_is_certain_while_there_is_more_to_read() -> None:
    device = Device()
    side = SideChannel(device, Recorder(), lambda *_: None, lambda: None, lambda f: None)  # type: ignore[arg-type]  # the device has of a connection only what is needed here
    _told(side, device, b"@introduceDomain")
    side.ready()
    assert side.catch_up()
    names: list[str | None] = []
    asked = len(device.sent)
    for domid in range(20):
        side.name_of(domid, names.append)
    requests = Decoder().feed(device.sent[asked:])
    answers = b"".join(encode(Message(Operation.READ, request.request_id, 0, b"n" * 4000)) for request in requests)
    rest = [answers[:65536], answers[65536:]]
    device.recv = lambda size: rest.pop(0)  # type: ignore[method-assign]  # replaced on purpose
    assert not side.catch_up()
    assert side.catch_up()
    assert len(names) == 20
    side.close()


def test_the_engines_connections_provide_the_interface(world: World) -> None:
    engine = world.engine()
    connection = engine.xenstore_connect()
    assert verifyObject(IStoreConnection, connection, tentative=True)
    connection.close()
    connection.close()
    engine.ctx_free()


def test_the_hub_offers_what_the_side_channel_needs() -> None:
    assert IOSEventHooks.names()
    assert choose("gevent").name == "gevent"
