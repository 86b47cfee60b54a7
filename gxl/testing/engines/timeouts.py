# SPDX-License-Identifier: LGPL-2.1-or-later
"""Cases for the timeout hooks and osevent_occurred_timeout. An operation that a paused guest ignores has a timeout."""

from __future__ import annotations

import time

import pytest

from gxl.errors import MisuseError, OSEventRegFail
from gxl.events import OperationComplete
from gxl.interfaces import AsyncHow
from gxl.testing import differences
from gxl.testing.engines.rig import Rig

TIMEDOUT = -9
ABORTED = -22


def _start(rig: Rig, user: int = 1) -> tuple[int, AsyncHow]:
    """An operation that goes on until its timeout: its domain, and its how."""
    domid, how = rig.domain(paused=True), AsyncHow(user)
    rig.engine.domain_shutdown(domid, how)
    rig.settle()
    return domid, how


def _tokens(rig: Rig) -> list[object]:
    return [token for _, token in rig.loop.timeouts.values()]


def a_timeout_is_registered_for_a_moment_on_the_wall_clock(rig: Rig) -> None:
    before = time.time()
    _start(rig)
    [(moment, _)] = rig.loop.timeouts.values()
    assert before + 59.999 <= moment <= time.time() + 60


def a_timeout_that_occurs_ends_the_operation(rig: Rig) -> None:
    domid, _ = _start(rig)
    [token] = _tokens(rig)
    rig.loop.timeouts.clear()
    rig.engine.osevent_occurred_timeout(token)
    assert rig.queued() == [OperationComplete(domid, TIMEDOUT, for_user=1)]


def an_early_report_is_believed(rig: Rig) -> None:
    # The engine does not look at the clock again.
    a_timeout_that_occurs_ends_the_operation(rig)


def a_timeout_of_no_more_interest_is_asked_for_at_once_and_then_does_nothing(rig: Rig) -> None:
    domid, _ = _start(rig)
    rig.host.write(f"/local/domain/{domid}/control/shutdown", "")
    rig.until(lambda: rig.loop.named("timeout_modify"), "the engine loses interest")
    [(_, moment)] = rig.loop.named("timeout_modify")
    assert moment == 0
    rig.until(lambda: not rig.loop.timeouts, "the loop reports it")
    assert rig.queued() == [OperationComplete(domid, 0, for_user=1)]


def a_timeout_must_occur_exactly_once(rig: Rig) -> None:
    _start(rig)
    [token] = _tokens(rig)
    rig.loop.timeouts.clear()
    rig.engine.osevent_occurred_timeout(token)
    with pytest.raises(MisuseError, match="already"):
        rig.engine.osevent_occurred_timeout(token)


def an_aborted_operation_asks_for_its_timeout_at_once(rig: Rig) -> None:
    domid, how = _start(rig)
    rig.engine.ao_abort(how)
    assert len(rig.loop.named("timeout_modify")) == rig.expected(differences.TIMEOUT_MODIFY_ON_ABORT)
    assert {moment for _, moment in rig.loop.named("timeout_modify")} == {0}
    assert rig.queued() == [OperationComplete(domid, ABORTED, for_user=1)]
    rig.turn()
    assert not rig.loop.timeouts
    assert rig.queued() == []


def a_late_report_does_not_hit_the_timeout_that_came_after(rig: Rig) -> None:
    _, how = _start(rig, 1)
    [old] = _tokens(rig)
    rig.engine.ao_abort(how)
    assert len(rig.queued()) == 1
    # The old one has not occurred yet, so its token can't serve the new one.
    rig.engine.domain_shutdown(rig.domain(paused=True), AsyncHow(2))
    assert len(rig.loop.timeouts) == 2
    assert len(set(map(id, _tokens(rig)))) == 2
    rig.loop.timeouts.pop(next(iter(rig.loop.timeouts)))
    rig.engine.osevent_occurred_timeout(old)
    assert rig.queued() == []


def several_timeouts_are_told_apart(rig: Rig) -> None:
    domids = [_start(rig, user)[0] for user in (1, 2, 3)]
    tokens = _tokens(rig)
    rig.loop.timeouts.clear()
    for place in (1, 2, 0):
        rig.engine.osevent_occurred_timeout(tokens[place])
        assert rig.queued() == [OperationComplete(domids[place], TIMEDOUT, for_user=place + 1)]


def a_timeout_that_afterpoll_serves_is_asked_for_at_once_too(rig: Rig) -> None:
    domid, _ = _start(rig)
    rig.engine.osevent_beforepoll()
    rig.engine.osevent_afterpoll([], time.time() + 61)
    assert rig.queued() == [OperationComplete(domid, TIMEDOUT, for_user=1)]
    assert {moment for _, moment in rig.loop.named("timeout_modify")} == {0}
    rig.turn()
    assert rig.queued() == []


def timeout_deregister_is_never_called(rig: Rig) -> None:
    # The rig's loop fails the case if it is.
    _, how = _start(rig)
    rig.engine.ao_abort(how)


def a_failing_timeout_register(rig: Rig) -> None:
    listener = rig.listen(0)
    domid = rig.domain(paused=True)
    rig.loop.fail["timeout_register"] = OSEventRegFail(9)
    if rig.expected(differences.FAILED_TIMEOUT_REGISTER) == "raises":
        with pytest.raises(OSEventRegFail) as caught:
            rig.engine.domain_shutdown(domid, AsyncHow(1))
        assert caught.value.rc == 9
        assert not rig.loop.fds
        assert rig.events() == []
    else:
        rig.engine.domain_shutdown(domid, AsyncHow(1))
        assert [kind for kind, *_ in listener.disasters] == [0]
        assert rig.engine.dead is None
        assert rig.events() == [OperationComplete(domid, TIMEDOUT, for_user=1)]


def a_failing_timeout_modify_is_raised_by_the_call_and_stops_nothing(rig: Rig) -> None:
    domid, _ = _start(rig)
    rig.loop.fail["timeout_modify"] = OSEventRegFail(9)
    rig.host.write(f"/local/domain/{domid}/control/shutdown", "")
    with pytest.raises(OSEventRegFail) as caught:
        rig.until(lambda: False, "the hook's code")
    assert caught.value.rc == 9
    # The operation ends all the same.
    assert rig.events() == [OperationComplete(domid, 0, for_user=1)]
    # And the timeout, which nobody has asked for, still has to occur.
    [token] = _tokens(rig)
    rig.loop.timeouts.clear()
    rig.engine.osevent_occurred_timeout(token)
    assert rig.queued() == []
