# SPDX-License-Identifier: LGPL-2.1-or-later
"""What comes out of the real libxl: events, callbacks, disasters."""

from __future__ import annotations

import errno
import gc
import logging
import sys
from types import FrameType
from typing import Any

import pytest
from libxl_pump import Hooks, drained, pump, pump_for_ever, queued
from zope.interface.verify import verifyClass, verifyObject

from gxl.engines.libxl import LibxlEngine
from gxl.errors import Disaster, MisuseError
from gxl.events import (
    DiskBackend,
    DiskEject,
    DiskFormat,
    DomainDeath,
    DomainShutdown,
    Event,
    EventType,
    ShutdownReason,
    mask,
)
from gxl.interfaces import IEngine, IEvgen
from gxl.simhost.remote import RemoteHost

pytest_plugins = ["libxl_fixtures"]


def test_the_engine_provides_the_contract(engine: LibxlEngine) -> None:
    assert verifyClass(IEngine, LibxlEngine)
    assert verifyObject(IEngine, engine)
    assert verifyObject(IEvgen, engine.evenable_domain_death(1))
    assert engine.version.startswith("libxenlight.so.4.")
    assert engine.dead is None


def test_a_shutdown_and_a_death_carry_what_libxl_knows(engine: LibxlEngine, host: RemoteHost) -> None:
    domid = host.create_domain()
    engine.evenable_domain_death(domid, user=0xDEAD_BEEF_CAFE_F00D)
    host.shutdown_domain(domid, 0)
    shutdown = engine.event_wait()
    assert shutdown == DomainShutdown(domid, ShutdownReason.POWEROFF, for_user=0xDEAD_BEEF_CAFE_F00D)
    assert shutdown.type is EventType.DOMAIN_SHUTDOWN
    host.destroy_domain(domid)
    assert engine.event_wait() == DomainDeath(domid, for_user=0xDEAD_BEEF_CAFE_F00D)


@pytest.mark.parametrize("reason", [1, 3, 5, 255])
def test_a_shutdown_reason_is_the_guests_number(engine: LibxlEngine, host: RemoteHost, reason: int) -> None:
    domid = host.create_domain()
    engine.evenable_domain_death(domid)
    host.shutdown_domain(domid, reason)
    event = engine.event_wait()
    assert isinstance(event, DomainShutdown)
    assert event.shutdown_reason == reason
    assert isinstance(event.shutdown_reason, ShutdownReason) == (reason < 6)


def test_an_eject_names_the_disk(engine: LibxlEngine, host: RemoteHost) -> None:
    domid = host.create_domain()
    host.add_disk(domid, "xvdc", "qdisk", backend_domid=0)
    engine.evenable_disk_eject(domid, "xvdc", user=2**64 - 1)
    host.eject_disk(domid, "xvdc")
    event = engine.event_wait()
    assert isinstance(event, DiskEject)
    assert (event.domid, event.vdev, event.for_user) == (domid, "xvdc", 2**64 - 1)
    assert (event.disk.vdev, event.disk.pdev_path) == ("xvdc", "")
    assert (event.disk.backend, event.disk.format) == (DiskBackend.QDISK, DiskFormat.EMPTY)
    assert (event.disk.removable, event.disk.readwrite, event.disk.is_cdrom) == (1, 0, 1)


def test_a_disk_that_xenstore_has_no_name_for_keeps_the_callers(engine: LibxlEngine, host: RemoteHost) -> None:
    domid = host.create_domain()
    first, second = (engine.evenable_disk_eject(domid, vdev, user) for user, vdev in enumerate(("xvda", "xvdb")))
    for vdev in ("xvda", "xvdb"):
        host.add_disk(domid, vdev)
        host.eject_disk(domid, vdev)
    while len(queued(engine)) < 2:
        pump(engine)
    engine.evdisable_disk_eject(first)
    engine.evdisable_disk_eject(second)
    events = {event.for_user: event for event in drained(engine) if isinstance(event, DiskEject)}
    assert {user: (event.vdev, event.disk.vdev) for user, event in events.items()} == {
        0: ("xvda", None),
        1: ("xvdb", None),
    }


def test_bytes_of_a_hostile_guest_become_text(engine: LibxlEngine, host: RemoteHost) -> None:
    domid = host.create_domain()
    host.add_disk(domid, "xvda")
    host.write(f"/local/domain/{domid}/device/vbd/51712/dev", b"xv\xff\n\xc3\xa9")
    engine.evenable_disk_eject(domid, "xvda")
    host.eject_disk(domid, "xvda")
    event = engine.event_wait()
    assert isinstance(event, DiskEject)
    assert event.vdev == "xv\\xff\né"


def test_an_event_that_occurred_before_its_evgen_was_disabled_is_still_returned(
    engine: LibxlEngine, host: RemoteHost
) -> None:
    domid = host.create_domain()
    evgen = engine.evenable_domain_death(domid)
    host.destroy_domain(domid)
    while not queued(engine):
        pump(engine)
    engine.evdisable_domain_death(evgen)
    assert engine.event_check() == DomainDeath(domid)


def test_check_takes_the_oldest_event_that_passes(engine: LibxlEngine, three_deaths: list[int]) -> None:
    assert engine.event_check(mask(DomainShutdown)) is None
    assert engine.event_check(0) is None
    assert engine.event_check(predicate=lambda event: event.for_user == 1) == DomainDeath(three_deaths[1], for_user=1)
    assert engine.event_check() == DomainDeath(three_deaths[0], for_user=0)
    assert engine.event_check(mask(DomainDeath)) == DomainDeath(three_deaths[2], for_user=2)
    assert engine.event_check() is None


def test_a_predicate_that_raises_leaves_the_queue_as_it_was(engine: LibxlEngine, three_deaths: list[int]) -> None:
    asked = []

    def predicate(event: Event) -> bool:
        asked.append(event.for_user)
        if event.for_user == 1:
            raise LookupError("no")
        return event.for_user == 2

    with pytest.raises(LookupError, match=r"^no$"):
        engine.event_check(predicate=predicate)
    assert asked == [0, 1]
    assert [event.for_user for event in drained(engine)] == [0, 1, 2]


def test_a_predicate_may_raise_what_is_no_exception(engine: LibxlEngine, three_deaths: list[int]) -> None:
    def predicate(event: Event) -> bool:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.event_check(predicate=predicate)
    assert engine.event_check() is not None


def test_ctrl_c_at_any_step_of_giving_an_event_out_loses_none_in_silence(engine: LibxlEngine, host: RemoteHost) -> None:
    told: list[int] = []
    hooks = Hooks(mask(DomainDeath), disaster=lambda kind, *_: told.append(kind))
    engine.event_register_callbacks(hooks)
    steps = countdown = 0

    def strike(frame: FrameType, what: str, argument: object) -> Any:
        nonlocal countdown
        if frame.f_code.co_name == "_event_occurs" and what == "call":
            countdown = steps
        elif countdown and what == "line":
            countdown -= 1
            if not countdown:
                sys.settrace(None)
                raise KeyboardInterrupt
        return strike if countdown else None

    while True:
        steps += 1
        told.clear()
        hooks.events.clear()
        domid = host.create_domain()
        engine.evenable_domain_death(domid)
        host.destroy_domain(domid)
        gc.disable()  # what is called by it takes no part
        sys.settrace(strike)
        try:
            while not hooks.events:
                pump(engine)
        except KeyboardInterrupt:
            assert [event.domid for event in hooks.events] == [domid] or told == [EventType.DOMAIN_DEATH], steps
        else:
            break
        finally:
            sys.settrace(None)
            gc.enable()
    assert steps > 10


def test_masked_events_go_to_event_occurs_and_not_to_the_queue(engine: LibxlEngine, host: RemoteHost) -> None:
    hooks = Hooks(mask(DomainDeath))
    engine.event_register_callbacks(hooks)
    domid = host.create_domain()
    engine.evenable_domain_death(domid, 9)
    host.shutdown_domain(domid, 2)
    assert engine.event_wait() == DomainShutdown(domid, 2, for_user=9)
    host.destroy_domain(domid)
    while not hooks.events:
        pump(engine)
    assert hooks.events == [DomainDeath(domid, for_user=9)]
    assert engine.event_check() is None


def test_event_occurs_may_call_the_engine_and_its_exceptions_are_raised_together(
    engine: LibxlEngine, host: RemoteHost
) -> None:
    domids = [host.create_domain() for _ in range(3)]
    hooks = Hooks()
    seen = []

    def event_occurs(event: Event) -> None:
        seen.append(event.domid)
        assert engine.event_check() is None
        engine.evdisable_domain_death(evgens.pop(event.domid))
        with pytest.raises(MisuseError, match="osevent_occurred_timeout can't be called inside event_occurs"):
            engine.osevent_occurred_timeout(object())
        if event.domid != domids[1]:
            raise LookupError(event.domid)

    hooks.event_occurs = event_occurs
    engine.event_register_callbacks(hooks)
    evgens = {domid: engine.evenable_domain_death(domid) for domid in domids}
    with host.quiet():
        for domid in domids:
            host.mark_dying(domid)
    with pytest.raises(ExceptionGroup, match="several callbacks") as raised:
        pump_for_ever(engine)
    assert sorted(seen) == domids
    assert [type(error) for error in raised.value.exceptions] == [LookupError, LookupError]
    assert not evgens


def test_callbacks_can_be_taken_away_again(engine: LibxlEngine, host: RemoteHost) -> None:
    hooks = Hooks()
    engine.event_register_callbacks(hooks)
    engine.event_register_callbacks(None)
    domid = host.create_domain()
    engine.evenable_domain_death(domid)
    host.destroy_domain(domid)
    assert engine.event_wait() == DomainDeath(domid)
    assert hooks.events == []


def test_callbacks_are_checked_before_anything_changes(engine: LibxlEngine) -> None:
    hooks = Hooks()
    hooks.event_occurs = None
    with pytest.raises(ValueError, match="there is no event_occurs"):
        engine.event_register_callbacks(hooks)
    hooks.event_occurs = 5
    with pytest.raises(TypeError, match="event_occurs must be callable"):
        engine.event_register_callbacks(hooks)
    with pytest.raises(TypeError, match="IEventHooks"):
        engine.event_register_callbacks(object())
    hooks = Hooks(1 << 40)
    with pytest.raises(ValueError, match="bits that are no EventType"):
        engine.event_register_callbacks(hooks)
    evgen = engine.evenable_domain_death(1)
    with pytest.raises(MisuseError, match="while evgens are enabled"):
        engine.event_register_callbacks(Hooks())
    engine.evdisable_domain_death(evgen)
    engine.event_register_callbacks(Hooks())


def test_a_disaster_without_a_hook_is_raised_and_logged_and_ends_the_engine(
    engine: LibxlEngine, host: RemoteHost, caplog: pytest.LogCaptureFixture
) -> None:
    domid = host.create_domain()
    engine.evenable_domain_death(domid)
    pump(engine)  # the scan of a new watch
    host.fail_next("getdomaininfolist", errno.EIO)
    host.destroy_domain(domid)
    with pytest.raises(Disaster, match="xc_domain_getinfolist failed") as raised:
        pump_for_ever(engine)
    assert (raised.value.type, raised.value.errnoval) == (0, errno.EIO)
    assert [record.levelno for record in caplog.records if "DISASTER" in record.message] == [logging.CRITICAL]
    assert engine.dead is not None
    assert engine.dead.errnoval == errno.EIO
    for call in (engine.event_check, engine.osevent_beforepoll, engine.list_domain):
        with pytest.raises(Disaster, match="xc_domain_getinfolist failed"):
            call()


def test_a_disaster_hook_is_told_instead(engine: LibxlEngine, host: RemoteHost) -> None:
    told = []

    def disaster(type: int, msg: str, errnoval: int) -> None:
        with pytest.raises(Disaster):
            engine.event_check()
        told.append((type, msg, errnoval))

    engine.event_register_callbacks(Hooks(0, disaster))
    domid = host.create_domain()
    engine.evenable_domain_death(domid)
    pump(engine)
    host.fail_next("getdomaininfolist", errno.EIO)
    host.destroy_domain(domid)
    while not told:
        pump(engine)
    assert [(kind, errnoval) for kind, _, errnoval in told] == [(0, errno.EIO)]
    assert "xc_domain_getinfolist failed" in told[0][1]
    assert engine.dead is not None


def test_a_failed_eject_is_a_disaster_of_ejects_only(engine: LibxlEngine, host: RemoteHost) -> None:
    domid = host.create_domain()
    host.add_disk(domid, "xvda")
    engine.evenable_disk_eject(domid, "xvda")
    host.eject_disk(domid, "xvda")
    engine.event_wait()  # and so the watch's first event has been seen, too
    host.fail_next("WRITE", errno.EACCES)
    host.eject_disk(domid, "xvda")
    with pytest.raises(Disaster, match="acknowledging eject") as raised:
        pump_for_ever(engine)
    assert raised.value.type == EventType.DISK_EJECT
    assert engine.dead is None
    engine.evenable_domain_death(domid)
    host.destroy_domain(domid)
    assert engine.event_wait() == DomainDeath(domid)
