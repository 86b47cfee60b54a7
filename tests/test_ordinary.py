# SPDX-License-Identifier: LGPL-2.1-or-later
"""Ordinary events go their way in C where that is compiled; nobody can tell by what arrives."""

from __future__ import annotations

import gc
import itertools
import random
import sys
import time
from collections.abc import Callable
from typing import Any

import gevent
import pytest
from requirements import Requirements
from worlds import World, settle
from zope.interface import implementer

import gxl
from gxl import DiskEject, DomainDeath, DomainShutdown, Event, compiled, floods
from gxl.drafts import SEALED, DeathDraft, EjectDraft, ShutdownDraft
from gxl.evgens import DiskEjectEvgen, DiskFeed, DomainDeathEvgen, DomainFeed
from gxl.feeds import Feeds
from gxl.interfaces import IEventHooks
from gxl.mailbox import Parked

spawn: Any = gevent.spawn
STEPS = 40
Said = list[tuple[Any, ...]]


@implementer(IEventHooks)
class Recorded:
    """Takes events as an application's callback, and notes them."""

    event_occurs_mask = gxl.mask(DomainShutdown)
    disaster = None

    def __init__(self, note: Callable[[Event], object]) -> None:
        self.event_occurs = note


class History:
    """Things that happen to some domains, chosen by chance, and who hears of them. Domains are told by their index."""

    def __init__(self, world: World, seed: int) -> None:
        self.seed = seed
        self.random = random.Random(seed)
        self.world = world
        self.ctx = world.open()
        self.said: Said = []
        self.domids: list[int] = []
        self.evgens: list[Any] = []
        self.waiters: list[Any] = []

    def note(self, who: object, event: Event) -> None:
        content = event.as_dict() | {"time": None, "uuid": event.domuuid is not None}
        content["domid"] = self.domids.index(event.domid)
        self.said.append((who, *content.items()))

    def appear(self) -> None:
        domid = self.world.host.create_domain(f"guest{len(self.domids)}")
        self.world.host.add_disk(domid, "hdc")
        self.domids.append(domid)

    def watch(self, domid: int) -> None:
        self.evgens.append(self.ctx.evenable_domain_death(domid, user=len(self.evgens)))

    def watch_disk(self, domid: int) -> None:
        self.evgens.append(self.ctx.evenable_disk_eject(domid, "hdc", user=len(self.evgens)))

    def wait(self, domid: int) -> None:
        which: dict[str, Any] = self.random.choice(
            [
                {},
                {"domid": domid},
                {"domid": domid},
                {"typemask": gxl.mask(DomainDeath)},
                {"typemask": gxl.mask(DiskEject, DomainShutdown), "domid": domid},
                {"user": self.random.randrange(len(self.evgens) + 1)},
            ]
        )
        if self.random.random() < 0.1:
            which["predicate"] = lambda event: event.for_user % 2
        number = len(self.waiters)

        def waits() -> None:
            while True:
                self.note(number, self.ctx.event_wait(**which))

        self.waiters.append(spawn(waits))
        gevent.sleep(0)

    def call(self, domid: int) -> None:
        self.ctx.event_register_callbacks(Recorded(lambda event: self.note("callback", event)))

    def disable(self, domid: int) -> None:
        if self.evgens:
            self.random.choice(self.evgens).disable()

    def live(self) -> Said:
        """Live through it. Returns who has heard what."""
        host = self.world.host
        self.appear()
        choices: list[tuple[Callable[[int], object], int]] = [
            (lambda domid: self.appear(), 4),
            (self.watch, 6),
            (self.watch_disk, 6),
            (self.wait, 6),
            (self.disable, 1),
            (lambda domid: host.shutdown_domain(domid, self.random.randrange(6)), 4),
            (lambda domid: host.destroy_domain(domid), 3),
            (lambda domid: host.eject_disk(domid, "hdc"), 8),
        ]
        if self.seed % 2:
            choices.append((self.call, 4))
        for _ in range(STEPS):
            domid = self.random.choice(self.domids)
            action = self.random.choices([f for f, _ in choices], [weight for _, weight in choices])[0]
            try:
                action(domid)
            except (LookupError, ValueError, RuntimeError, gxl.GxlError, OSError):
                continue  # it is dead already, or off
            self.settle()
        gevent.killall(self.waiters)
        for event in iter(self.ctx.event_check, None):
            self.note("nobody", event)
        self.world.close()
        return self.said

    def settle(self) -> None:
        """Until all of it has been heard: what comes last is the end of one more domain, for whoever expects it."""
        domid = self.world.host.create_domain()
        with self.ctx.expect(DomainDeath, domid) as death:
            self.world.host.destroy_domain(domid)
            death.wait(10)
        settle()


@pytest.fixture
def in_both_forms(require: Requirements, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Said]], list[Said]]:
    """Runs something with the compiled part, and without it."""
    require.module("gxl._compiled")

    def both(run: Callable[[], Said]) -> list[Said]:
        told = [run()]
        with monkeypatch.context() as patch:
            patch.setattr(compiled, "part", None)
            told.append(run())
        return told

    return both


@pytest.mark.parametrize("seed", range(8))
def test_both_forms_deliver_the_same_to_the_same(
    world: World, seed: int, in_both_forms: Callable[[Callable[[], Said]], list[Said]]
) -> None:
    in_c, in_python = in_both_forms(lambda: History(world, seed).live())
    assert in_c == in_python
    assert in_c


@pytest.fixture
def gone_python_s_way(require: Requirements, monkeypatch: pytest.MonkeyPatch) -> list[Event]:
    """The events that C has passed on."""
    require.module("gxl._compiled")
    found: list[Event] = []
    resolve = Feeds.resolve

    def noting(self: Feeds, event: Event) -> None:
        found.append(event)
        resolve(self, event)

    monkeypatch.setattr(Feeds, "resolve", noting)
    return found


def heard(world: World, ctx: gxl.Context, domid: int) -> list[type[Event]]:
    """What a greenlet hears that waits for this domain's events, as it shuts down, ejects a disk, and dies."""
    events: list[type[Event]] = []
    with ctx.evenable_disk_eject(domid, "hdc"):
        ctx.list_domain()
        host = world.host
        acts: list[Callable[[], object]] = [
            lambda: host.eject_disk(domid, "hdc"),
            lambda: host.shutdown_domain(domid, 0),
            lambda: host.destroy_domain(domid),
        ]
        for act in acts:
            waiter = spawn(ctx.event_wait, domid=domid, timeout=10)
            gevent.sleep(0)
            act()
            events.append(type(waiter.get()))
    return events


def test_an_ordinary_event_needs_nothing_of_python_s(world: World, gone_python_s_way: list[Event]) -> None:
    ctx = world.open()
    domid = world.host.create_domain("web")
    world.host.add_disk(domid, "hdc")
    ctx.evenable_domain_death(domid)
    assert heard(world, ctx, domid) == [DiskEject, DomainShutdown, DomainDeath]
    assert [event for event in gone_python_s_way if event.domid == domid] == []


def test_events_that_two_parts_have_enabled_go_python_s_way(world: World, gone_python_s_way: list[Event]) -> None:
    ctx = world.open()
    domid = world.host.create_domain("web")
    world.host.add_disk(domid, "hdc")
    for user in (1, 2):
        ctx.evenable_domain_death(domid, user=user)
    heard(world, ctx, domid)
    assert DomainShutdown in [type(event) for event in gone_python_s_way if event.domid == domid]


def test_a_flooded_disk_is_given_up_in_c_too(
    world: World, gone_python_s_way: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(floods, "EJECTS_AT_ONCE", 0)
    ctx = world.open()
    domid = world.host.create_domain("web")
    world.host.add_disk(domid, "hdc")
    evgen = ctx.evenable_disk_eject(domid, "hdc")
    ctx.list_domain()
    world.host.eject_disk(domid, "hdc")
    assert isinstance(ctx.event_wait(timeout=10), gxl.EventsLost)
    assert evgen.flooded
    assert not gone_python_s_way


def test_many_events_leave_no_memory_behind(world: World, require: Requirements) -> None:
    require.module("gxl._compiled")
    ctx = world.open()
    domid = world.host.create_domain("web")
    world.host.add_disk(domid, "hdc")
    ctx.evenable_disk_eject(domid, "hdc")
    ctx.list_domain()

    def some() -> int:
        for _ in range(200):
            world.host.eject_disk(domid, "hdc")
            ctx.event_wait(domid=domid, timeout=10)
        return sys.getallocatedblocks()

    some()
    before = some()
    assert some() - before < 100


def way(part: Any, **what: Any) -> Any:
    """An Ordinary of nobody's."""
    drafts = (ShutdownDraft, DeathDraft, EjectDraft)
    whole: dict[str, Any] = {name: {} for name in ("by_token", "counts", "plain", "picky")}
    whole |= {
        "feeds": None,
        "callbacks": None,
        "time": time,
        "seqs": itertools.count(),
        "resolve": id,
        "accept": id,
        "enqueue": id,
    }
    whole |= {"drafts": drafts, "sealed": tuple(SEALED[draft] for draft in drafts), "types": (1, 2, 3)}
    owners = (Event, Parked, DomainFeed, DiskFeed, DomainDeathEvgen, DiskEjectEvgen)
    return part.Ordinary(**whole | {"owners": owners} | what)


def test_what_has_no_content_goes_python_s_way(require: Requirements) -> None:
    part = require.module("gxl._compiled")
    found: list[object] = []
    callbacks = type("Callbacks", (), {"mask": 0})
    plain = {(1 << 2, True, True): {(1, 1): None}}
    ordinary = way(part, resolve=found.append, accept=found.append, plain=plain, callbacks=callbacks)
    bare: Any = DeathDraft.__new__(DeathDraft)
    ordinary.resolve(bare)
    ordinary.accept(bare)
    assert len(found) == 2
    assert all(event is bare for event in found)


def test_what_numbers_events_has_to_be_an_iterator(require: Requirements) -> None:
    part = require.module("gxl._compiled")
    with pytest.raises(TypeError, match="seqs must be an iterator, not 1"):
        way(part, seqs=1)


def test_what_is_made_anew_leaves_no_names_behind(require: Requirements) -> None:
    """A name that is not interned stays in the interpreter's cache of attributes, and drives another out of it."""
    part = require.module("gxl._compiled")
    way(part)
    gc.collect()
    before = sys.getallocatedblocks()
    for _ in range(100):
        way(part)
    gc.collect()
    assert sys.getallocatedblocks() - before < 50


@pytest.mark.parametrize("lacks", ["user", "sink"])
def test_an_evgen_that_somebody_has_emptied_is_an_error_and_no_crash(world: World, lacks: str) -> None:
    ctx = world.open()
    domid = world.host.create_domain("web")
    evgen = ctx.evenable_domain_death(domid)
    ctx.list_domain()
    delattr(evgen, lacks)
    world.host.destroy_domain(domid)
    with pytest.raises(gxl.Disaster, match=lacks):
        ctx.event_wait(timeout=10)
