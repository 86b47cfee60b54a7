# SPDX-License-Identifier: LGPL-2.1-or-later
"""Cases for asynchronous operations that need no child: how they start, end, and are stopped."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

import pytest

from gxl.errors import Fail, MisuseError, NotFound
from gxl.events import DomainDeath, EventType, OperationComplete, ShutdownReason, mask
from gxl.interfaces import AsyncHow
from gxl.testing.engines.rig import Rig, users

FAIL = -3
ABORTED = -22


def an_operation_ends_with_an_event_that_names_it(rig: Rig) -> None:
    domid = rig.domain()
    rig.engine.domain_pause(domid, AsyncHow(2**64 - 1))
    assert rig.queued() == [OperationComplete(domid, 0, for_user=2**64 - 1)]
    assert rig.host.domain_info(domid).paused


def an_operation_ends_with_a_callback_instead(rig: Rig) -> None:
    domid = rig.domain()
    ended: list[int] = []
    rig.engine.domain_pause(domid, AsyncHow(callback=ended.append))
    assert ended == [0]
    assert rig.queued() == []


def a_synchronous_operation_has_ended_when_it_returns(rig: Rig) -> None:
    domid = rig.domain()
    rig.engine.domain_pause(domid)
    assert rig.host.domain_info(domid).paused
    rig.engine.domain_unpause(domid)
    assert not rig.host.domain_info(domid).paused
    assert rig.queued() == []


def a_guest_that_is_asked_to_shut_down_does(rig: Rig) -> None:
    for name, reason in (("domain_shutdown", ShutdownReason.POWEROFF), ("domain_reboot", ShutdownReason.REBOOT)):
        domid = rig.domain()
        getattr(rig.engine, name)(domid, AsyncHow(1))
        rig.until(lambda: users(rig.queued()) == [1], f"{name} ends")
        info = rig.engine.domain_info(domid)
        assert info.shutdown
        assert info.shutdown_reason == reason
        domid = rig.domain()
        getattr(rig.engine, name)(domid)
        assert rig.engine.domain_info(domid).shutdown_reason == reason


def a_failure_before_the_start_is_raised_and_not_reported(rig: Rig) -> None:
    ended: list[int] = []
    calls: list[Callable[..., None]] = [rig.engine.domain_pause, rig.engine.domain_shutdown, rig.engine.domain_reboot]
    for call in calls:
        for how in (AsyncHow(1), AsyncHow(callback=ended.append), None):
            with pytest.raises(Fail):
                call(31000, how)
    assert rig.events() == []
    assert ended == []


def a_failure_after_the_start_is_reported_and_not_raised(rig: Rig) -> None:
    ended: list[int] = []
    rig.engine.domain_unpause(31000, AsyncHow(1))
    rig.engine.domain_unpause(31000, AsyncHow(callback=ended.append))
    assert rig.queued() == [OperationComplete(31000, FAIL, for_user=1)]
    assert ended == [FAIL]
    with pytest.raises(Fail):
        rig.engine.domain_unpause(31000)


def a_hypercall_that_fails_fails_the_operation(rig: Rig) -> None:
    domid = rig.domain()
    rig.host.fail_next("pausedomain", errno.EPERM)
    with pytest.raises(Fail):
        rig.engine.domain_pause(domid, AsyncHow(1))
    assert rig.queued() == []
    rig.engine.domain_pause(domid, AsyncHow(2))
    assert users(rig.queued()) == [2]


def the_ends_of_operations_follow_the_event_mask_unless_they_have_callbacks(rig: Rig) -> None:
    listener = rig.listen(mask(EventType.OPERATION_COMPLETE))
    domid = rig.domain()
    ended: list[int] = []
    rig.engine.domain_pause(domid, AsyncHow(1))
    rig.engine.domain_unpause(domid, AsyncHow(callback=ended.append))
    assert users(listener.events) == [1]
    assert ended == [0]
    assert rig.queued() == []


def an_operation_that_goes_on_can_be_aborted(rig: Rig) -> None:
    domid, how = rig.domain(paused=True), AsyncHow(1)
    rig.engine.domain_shutdown(domid, how)
    rig.settle()
    assert rig.queued() == []
    rig.engine.ao_abort(how)
    assert rig.events() == [OperationComplete(domid, ABORTED, for_user=1)]
    with pytest.raises(NotFound):
        rig.engine.ao_abort(how)


def an_aborted_operations_callback_gets_its_code(rig: Rig) -> None:
    ended: list[int] = []
    how = AsyncHow(callback=ended.append)
    rig.engine.domain_shutdown(rig.domain(paused=True), how)
    rig.engine.ao_abort(how)
    assert ended == [ABORTED]


def aborting_finds_the_operation_by_the_object_that_it_was_started_with(rig: Rig) -> None:
    hows = [AsyncHow(7), AsyncHow(7), AsyncHow(7)]
    domids = [rig.domain(paused=True) for _ in hows]
    for domid, how in zip(domids, hows, strict=True):
        rig.engine.domain_shutdown(domid, how)
    with pytest.raises(NotFound):
        rig.engine.ao_abort(AsyncHow(7))
    for place in (1, 0, 2):
        rig.engine.ao_abort(hows[place])
        assert rig.events() == [OperationComplete(domids[place], ABORTED, for_user=7)]


def what_cannot_be_aborted_any_more_is_not_found(rig: Rig) -> None:
    how = AsyncHow(1)
    rig.engine.domain_pause(rig.domain(), how)
    with pytest.raises(NotFound):
        rig.engine.ao_abort(how)
    assert users(rig.queued()) == [1]


def a_guests_answer_after_the_abort_changes_nothing(rig: Rig) -> None:
    domid, how = rig.domain(paused=True), AsyncHow(1)
    rig.engine.domain_shutdown(domid, how)
    rig.engine.ao_abort(how)
    rig.host.write(f"/local/domain/{domid}/control/shutdown", "")
    assert rig.events() == [OperationComplete(domid, ABORTED, for_user=1)]


def operations_end_in_the_order_in_which_their_guests_answer(rig: Rig) -> None:
    domids = [rig.domain(paused=True) for _ in range(3)]
    for user, domid in enumerate(domids):
        rig.engine.domain_shutdown(domid, AsyncHow(user))
    rig.settle()
    for place in (2, 0, 1):
        rig.host.write(f"/local/domain/{domids[place]}/control/shutdown", "")
    assert users(rig.events()) == [2, 0, 1]


def a_callback_may_start_another_operation(rig: Rig) -> None:
    domid = rig.domain()
    ended: list[str] = []

    def then(rc: int) -> None:
        ended.append("pause")
        rig.engine.domain_unpause(domid, AsyncHow(callback=lambda rc: ended.append("unpause")))
        ended.append("started")

    rig.engine.domain_pause(domid, AsyncHow(callback=then))
    assert ended == ["pause", "unpause", "started"]


def what_a_callback_raises_is_raised_by_the_call(rig: Rig) -> None:
    def choke(rc: int) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        rig.engine.domain_pause(rig.domain(), AsyncHow(callback=choke))


def events_that_happen_during_a_synchronous_operation_are_not_lost(rig: Rig) -> None:
    domid = rig.domain()
    rig.engine.evenable_domain_death(domid, 1)
    rig.settle()
    rig.engine.domain_shutdown(domid)
    rig.host.destroy_domain(domid)
    assert users(rig.events()) == [1, 1]


def freeing_is_refused_while_an_operation_goes_on_and_harmless(rig: Rig) -> None:
    how = AsyncHow(1)
    domid, dying = rig.domain(paused=True), rig.domain()
    rig.engine.evenable_domain_death(dying, 2)
    rig.engine.domain_shutdown(domid, how)
    with pytest.raises(MisuseError, match="ctx_free with"):
        rig.engine.ctx_free()
    rig.host.destroy_domain(dying)
    assert rig.events() == [DomainDeath(dying, for_user=2)]
    rig.engine.ao_abort(how)
    assert users(rig.queued()) == [1]
    rig.engine.ctx_free()


def an_ended_operation_whose_event_is_still_queued_does_not_keep_the_engine(rig: Rig) -> None:
    rig.engine.domain_pause(rig.domain(), AsyncHow(1))
    rig.engine.ctx_free()


def domains_are_listed_with_their_states(rig: Rig) -> None:
    running, paused, shut, dying = rig.domain(), rig.domain(paused=True), rig.domain(), rig.domain()
    rig.host.shutdown_domain(shut, 200)
    rig.host.mark_dying(dying)
    infos = {info.domid: info for info in rig.engine.list_domain()}
    assert list(infos) == sorted(infos)
    assert {0, running, paused, shut, dying} <= set(infos)
    assert not infos[running].paused
    assert infos[running].shutdown_reason is None
    assert infos[paused].paused
    assert infos[shut].shutdown
    assert infos[shut].shutdown_reason == 200
    assert infos[dying].dying
    for domid, info in infos.items():
        assert rig.engine.domain_info(domid)._replace(cpu_time_ns=0) == info._replace(cpu_time_ns=0)
        assert info.uuid == rig.host.domain_info(domid).uuid
    with pytest.raises(Exception, match="31000") as caught:
        rig.engine.domain_info(31000)
    assert getattr(caught.value, "rc", None) == -21


def malformed_arguments_are_refused(rig: Rig) -> None:
    domid = rig.domain()
    wrong: list[tuple[type[Exception], tuple[Any, ...]]] = [
        (TypeError, ("1",)),
        (ValueError, (-1,)),
        (ValueError, (2**32, AsyncHow(1))),
        (TypeError, (domid, 7)),
        (TypeError, (domid, lambda rc: None)),
    ]
    for error, arguments in wrong:
        for call in (rig.engine.domain_pause, rig.engine.domain_shutdown, rig.engine.domain_destroy):
            with pytest.raises(error):
                call(*arguments)
    with pytest.raises(TypeError):
        rig.engine.ao_abort(None)  # type: ignore[arg-type]  # that it is refused is what is tested
    assert not rig.host.domain_info(domid).paused
    assert rig.events() == []
