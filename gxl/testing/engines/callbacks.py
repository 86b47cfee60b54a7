# SPDX-License-Identifier: LGPL-2.1-or-later
"""Cases for event_register_callbacks: which events go to callbacks, when, and what may go wrong in there."""

from __future__ import annotations

import errno

import pytest

from gxl.errors import Disaster, MisuseError
from gxl.events import DiskEject, DomainDeath, DomainShutdown, Event, EventType, OperationComplete, mask
from gxl.interfaces import AsyncHow
from gxl.testing.engines.rig import Rig, users

DEATHS = mask(EventType.DOMAIN_DEATH)


def events_in_the_mask_go_to_the_callback_and_the_others_to_the_queue(rig: Rig) -> None:
    listener = rig.listen(DEATHS)
    gone, down = rig.domain(), rig.domain()
    rig.engine.evenable_domain_death(gone, 1)
    rig.engine.evenable_domain_death(down, 2)
    with rig.host.quiet():
        rig.host.destroy_domain(gone)
        rig.host.shutdown_domain(down, 3)
    assert rig.events() == [DomainShutdown(down, 3, for_user=2)]
    assert listener.events == [DomainDeath(gone, for_user=1)]


def callbacks_come_in_the_order_in_which_the_events_happened(rig: Rig) -> None:
    listener = rig.listen()
    expected = rig.queue_deaths(1, 2, 3)
    assert listener.events == expected
    assert rig.queued() == []


def callbacks_have_returned_when_the_call_that_found_the_events_returns(rig: Rig) -> None:
    listener = rig.listen(DEATHS)
    down, gone = rig.domain(), rig.domain()
    rig.engine.evenable_domain_death(down, 1)
    rig.engine.evenable_domain_death(gone, 2)
    rig.settle()
    with rig.host.quiet():
        rig.host.shutdown_domain(down)
        rig.host.destroy_domain(gone)

    def delivered_when_the_shutdown_is_queued() -> list[list[int]]:
        # One look at the domains finds both. event_check might deliver what came too late, so it comes second.
        seen = users(listener.events)
        return [seen] if rig.engine.event_check() else []

    assert rig.until(delivered_when_the_shutdown_is_queued, "the shutdown is queued") == [[2]]


def enabling_and_disabling_deliver_nothing(rig: Rig) -> None:
    listener = rig.listen()
    domid = rig.domain()
    first = rig.engine.evenable_domain_death(domid, 1)
    rig.settle()
    rig.host.destroy_domain(domid)
    rig.host.domains()
    second = rig.engine.evenable_domain_death(rig.domain(), 2)
    rig.engine.evdisable_domain_death(second)
    assert listener.events == []
    rig.settle()
    assert users(listener.events) == [1]
    rig.engine.evdisable_domain_death(first)


def a_callback_may_call_the_engine(rig: Rig) -> None:
    listener = rig.listen(DEATHS)
    shut, domid, third = rig.domain(), rig.domain(), rig.domain()
    rig.engine.evenable_domain_death(shut, 1)
    rig.engine.evenable_domain_death(domid, 2)
    inside: list[object] = []

    def use_the_engine(event: Event) -> None:
        if event.domid == domid:
            inside.append(rig.engine.event_check())
            inside.append(rig.engine.evenable_domain_death(third, 3))
            rig.engine.domain_pause(third, AsyncHow(4))
            inside.append(rig.engine.domain_info(third).paused)

    listener.then = use_the_engine
    with rig.host.quiet():
        rig.host.shutdown_domain(shut)
        rig.host.destroy_domain(domid)
    rig.settle()
    assert inside[0] == DomainShutdown(shut, 0, for_user=1)
    assert inside[2] is True
    assert rig.queued() == [OperationComplete(third, 0, for_user=4)]
    rig.host.destroy_domain(third)
    rig.settle()
    assert users(listener.events) == [2, 3]


def calls_that_the_header_forbids_inside_others_are_refused_in_a_callback(rig: Rig) -> None:
    listener = rig.listen(DEATHS)
    refusals: list[str] = []

    def misuse(event: Event) -> None:
        for name, arguments in (
            ("event_register_callbacks", (None,)),
            ("osevent_register_hooks", (rig.loop,)),
            ("ctx_free", ()),
        ):
            try:
                getattr(rig.engine, name)(*arguments)
            except MisuseError:
                refusals.append(name)

    listener.then = misuse
    rig.queue_deaths(1)
    assert refusals == ["event_register_callbacks", "osevent_register_hooks", "ctx_free"]


def events_come_before_the_ends_of_operations(rig: Rig) -> None:
    order: list[object] = []
    listener = rig.listen(mask(EventType.OPERATION_COMPLETE))
    listener.then = lambda event: order.append(event.for_user)
    domid = rig.domain(paused=True)
    by_callback, by_event = AsyncHow(callback=order.append), AsyncHow(6)
    rig.engine.domain_shutdown(domid, by_callback)
    rig.engine.domain_shutdown(domid, by_event)
    rig.settle()
    # The guest acknowledges both requests at once.
    rig.host.write(f"/local/domain/{domid}/control/shutdown", "")
    rig.until(lambda: len(order) == 2, "both operations end")
    assert order == [6, 0]


def the_latest_registration_counts(rig: Rig) -> None:
    first = rig.listen()
    second = rig.listen(DEATHS)
    rig.queue_deaths(1)
    assert first.events == []
    assert users(second.events) == [1]


def without_callbacks_everything_is_queued_again(rig: Rig) -> None:
    listener = rig.listen()
    rig.stop_listening()
    expected = rig.queue_deaths(1)
    assert rig.queued() == expected
    assert listener.events == []


def callbacks_cannot_be_registered_while_evgens_are_enabled(rig: Rig) -> None:
    evgen = rig.engine.evenable_domain_death(rig.domain())
    with pytest.raises(MisuseError, match="evgen"):
        rig.engine.event_register_callbacks(None)
    rig.engine.evdisable_domain_death(evgen)
    rig.engine.event_register_callbacks(None)


def what_a_callback_raises_is_raised_by_the_call_and_stops_no_other_callback(rig: Rig) -> None:
    listener = rig.listen()

    def choke(event: Event) -> None:
        if event.for_user == 1:
            raise ZeroDivisionError

    listener.then = choke
    with pytest.raises(ZeroDivisionError):
        rig.queue_deaths(1, 2)
    assert users(listener.events) == [1, 2]


def what_several_callbacks_raise_is_raised_as_a_group(rig: Rig) -> None:
    listener = rig.listen()

    def choke(event: Event) -> None:
        raise ZeroDivisionError

    listener.then = choke
    with pytest.raises(ExceptionGroup) as caught:
        rig.queue_deaths(1, 2)
    assert [type(error) for error in caught.value.exceptions] == [ZeroDivisionError, ZeroDivisionError]


def a_callback_is_needed_where_the_mask_is_not_0(rig: Rig) -> None:
    class Hooks:
        event_occurs_mask = DEATHS
        event_occurs = None
        disaster = None

    class Missing:
        event_occurs_mask = 0

    wrong: list[tuple[type[Exception], object]] = [(ValueError, Hooks), (TypeError, Missing)]
    for error, hooks in wrong:
        with pytest.raises(error):
            rig.engine.event_register_callbacks(hooks)
    Hooks.event_occurs_mask = 0
    rig.engine.event_register_callbacks(Hooks)
    rig.queue_deaths(1)
    assert users(rig.queued()) == [1]


def a_failure_that_may_have_lost_events_is_a_disaster(rig: Rig) -> None:
    listener = rig.listen()
    rig.engine.evenable_domain_death(rig.domain())
    rig.settle()
    rig.host.fail_next("getdomaininfolist", errno.EPERM)
    rig.host.release()
    rig.until(lambda: listener.disasters, "the disaster is reported")
    [(kind, message, errnoval)] = listener.disasters
    assert kind == 0
    assert "getinfolist" in message
    assert errnoval == errno.EPERM


def after_a_disaster_that_libxl_cannot_carry_on_from_every_call_raises_it(rig: Rig) -> None:
    a_failure_that_may_have_lost_events_is_a_disaster(rig)
    assert isinstance(rig.engine.dead, Disaster)
    for call in (
        rig.engine.event_check,
        rig.engine.event_wait,
        rig.engine.osevent_beforepoll,
        lambda: rig.engine.domain_info(0),
        lambda: rig.engine.evenable_domain_death(1),
        lambda: rig.engine.domain_pause(1, AsyncHow(1)),
    ):
        with pytest.raises(Disaster) as caught:
            call()
        assert caught.value.errnoval == errno.EPERM
    rig.engine.ctx_free()


def without_a_disaster_hook_the_call_at_hand_raises_it(rig: Rig) -> None:
    rig.engine.evenable_domain_death(rig.domain())
    rig.settle()
    rig.host.fail_next("getdomaininfolist", errno.EIO)
    rig.host.release()
    with pytest.raises(Disaster) as caught:
        rig.until(lambda: False, "the disaster is raised")
    assert (caught.value.type, caught.value.errnoval) == (0, errno.EIO)


def a_disaster_of_one_type_leaves_the_rest_working(rig: Rig) -> None:
    listener = rig.listen()
    domid = rig.domain_with_disk()
    rig.engine.evenable_disk_eject(domid, "xvda", 1)
    rig.settle()
    rig.host.fail_next("WRITE", errno.EIO)
    rig.host.eject_disk(domid, "xvda")
    rig.until(lambda: listener.disasters, "the disaster is reported")
    [(kind, _, errnoval)] = listener.disasters
    assert (kind, errnoval) == (EventType.DISK_EJECT, errno.EIO)
    assert rig.engine.dead is None
    rig.host.eject_disk(domid, "xvda")
    rig.settle()
    assert [type(event) for event in listener.events] == [DiskEject]


def a_disaster_hook_must_not_call_the_engine(rig: Rig) -> None:
    listener = rig.listen()
    refusals: list[MisuseError] = []

    def call() -> None:
        try:
            rig.engine.event_check()
        except MisuseError as error:
            refusals.append(error)

    listener.at_disaster = call
    domid = rig.domain_with_disk()
    rig.engine.evenable_disk_eject(domid, "xvda", 1)
    rig.settle()
    rig.host.fail_next("WRITE", errno.EIO)
    rig.host.eject_disk(domid, "xvda")
    rig.until(lambda: listener.disasters, "the disaster is reported")
    assert len(refusals) == 1


def what_a_disaster_hook_raises_is_raised_by_the_call(rig: Rig) -> None:
    listener = rig.listen()

    def choke() -> None:
        raise ZeroDivisionError

    listener.at_disaster = choke
    rig.engine.evenable_domain_death(rig.domain())
    rig.settle()
    rig.host.fail_next("getdomaininfolist", errno.EIO)
    rig.host.release()
    with pytest.raises(ZeroDivisionError):
        rig.until(lambda: False, "what the hook raised")
