# SPDX-License-Identifier: LGPL-2.1-or-later
"""Cases for osevent_register_hooks and osevent_occurred_fd: the fds, and a loop whose reports may be late or wrong."""

from __future__ import annotations

import select
from collections.abc import Callable

import pytest

from gxl.errors import MisuseError, OSEventRegFail
from gxl.events import DomainDeath, Event
from gxl.interfaces import AsyncHow
from gxl.testing import differences
from gxl.testing.engines.rig import Rig, in_a_fresh_process, users

POLLIN = select.POLLIN


def an_idle_engine_has_no_registrations(rig: Rig) -> None:
    assert rig.loop.calls == []


def the_first_evgen_registers_an_fd_and_the_last_one_deregisters_it_over_and_over(rig: Rig) -> None:
    domid = rig.domain_with_disk()
    for round_ in range(1, 4):
        death = rig.engine.evenable_domain_death(domid)
        eject = rig.engine.evenable_disk_eject(domid, "xvda")
        assert len(rig.loop.named("fd_register")) == round_
        [(fd, events, _)] = rig.loop.fds.values()
        assert events == POLLIN
        rig.engine.evdisable_domain_death(death)
        assert rig.loop.fds
        rig.engine.evdisable_disk_eject(eject)
        assert not rig.loop.fds
        assert rig.loop.named("fd_deregister")[-1][0] == fd


def ctx_free_deregisters_everything(rig: Rig) -> None:
    other = rig.another()
    other.engine.evenable_domain_death(1)
    other.engine.evenable_disk_eject(1, "xvda")
    other.engine.ctx_free()
    assert not other.loop.fds


def what_the_hook_returned_is_handed_back(rig: Rig) -> None:
    evgen = rig.engine.evenable_domain_death(1)
    [registration] = rig.loop.fds
    rig.engine.evdisable_domain_death(evgen)
    [(_, handed_back)] = rig.loop.named("fd_deregister")
    assert handed_back == registration


def readiness_does_the_work(rig: Rig) -> None:
    domid = rig.domain()
    rig.engine.evenable_domain_death(domid, 1)
    rig.host.destroy_domain(domid)
    rig.until(lambda: users(rig.queued()) == [1], "the death is reported")


def what_the_loop_says_of_events_is_not_believed(rig: Rig) -> None:
    domid = rig.domain()
    rig.engine.evenable_domain_death(domid, 1)
    rig.settle()
    [(fd, _, token)] = rig.loop.fds.values()
    # Not ready, whatever the loop says.
    rig.engine.osevent_occurred_fd(token, fd, POLLIN, POLLIN)
    assert rig.queued() == []
    rig.host.destroy_domain(domid)
    _until_readable(rig, fd)
    # Ready, whatever the loop says.
    rig.engine.osevent_occurred_fd(token, fd, 0, 0)
    assert users(rig.queued()) == [1]


def a_report_of_another_fd_is_ignored(rig: Rig) -> None:
    domid = rig.domain()
    rig.engine.evenable_domain_death(domid, 1)
    rig.settle()
    [(fd, events, token)] = rig.loop.fds.values()
    rig.host.destroy_domain(domid)
    _until_readable(rig, fd)
    rig.engine.osevent_occurred_fd(token, fd + 1, events, POLLIN)
    assert rig.queued() == []
    rig.engine.osevent_occurred_fd(token, fd, events, POLLIN)
    assert users(rig.queued()) == [1]


def a_report_that_comes_after_the_deregistration_is_ignored(rig: Rig) -> None:
    evgen = rig.engine.evenable_domain_death(31000, 1)
    [(fd, events, token)] = rig.loop.fds.values()
    _until_readable(rig, fd)
    rig.engine.evdisable_domain_death(evgen)
    rig.engine.osevent_occurred_fd(token, fd, events, POLLIN)
    assert rig.queued() == []


def a_failing_hook_fails_the_call_with_its_code_and_changes_nothing(rig: Rig) -> None:
    domid = rig.domain_with_disk()
    failures: list[tuple[BaseException, int]] = [
        (OSEventRegFail(7), 7),
        (OSEventRegFail(), -12),
        (ZeroDivisionError(), -12),
        (OSEventRegFail(2**31 - 1), 2**31 - 1),
    ]
    calls: list[Callable[[], object]] = [
        lambda: rig.engine.evenable_domain_death(domid),
        lambda: rig.engine.evenable_disk_eject(domid, "xvda"),
    ]
    for call in calls:
        for failure, rc in failures:
            rig.loop.fail["fd_register"] = failure
            with pytest.raises(OSEventRegFail) as caught:
                call()
            assert caught.value.rc == rc
            assert not rig.loop.fds
    assert rig.engine.dead is None
    rig.engine.evenable_domain_death(domid, 1)
    rig.host.destroy_domain(domid)
    assert users(rig.events()) == [1]


def a_failing_hook_in_the_middle_of_an_operation(rig: Rig) -> None:
    domid = rig.domain(paused=True)
    expected = rig.expected(differences.FAILED_FD_REGISTER)

    def start() -> None:
        fresh = rig.fresh()
        listener = fresh.listen(0)
        fresh.loop.fail["fd_register"] = OSEventRegFail(7)
        if expected == "raises":
            with pytest.raises(OSEventRegFail) as caught:
                fresh.engine.domain_shutdown(domid, AsyncHow(1))
            assert caught.value.rc == 7
            assert not fresh.loop.fds
            assert listener.disasters == []
        else:
            fresh.engine.domain_shutdown(domid, AsyncHow(1))
            assert [kind for kind, *_ in listener.disasters] == [0]
            assert fresh.engine.dead is not None

    # With the operation still under way, the library's ctx can't be freed any more.
    in_a_fresh_process(start)


def what_a_deregister_hook_raises_is_raised_and_the_fd_is_forgotten(rig: Rig) -> None:
    evgen = rig.engine.evenable_domain_death(1)
    rig.loop.fail["fd_deregister"] = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        rig.engine.evdisable_domain_death(evgen)
    rig.loop.fds.clear()
    assert rig.engine.osevent_beforepoll()[0][1:] == []


def a_hook_must_not_call_the_engine(rig: Rig) -> None:
    refusals: list[str] = []

    def misuse() -> None:
        for name, arguments in (
            ("osevent_occurred_fd", (object(), 0, 0, 0)),
            ("osevent_occurred_timeout", (object(),)),
            ("event_check", ()),
            ("osevent_beforepoll", ()),
            ("ctx_free", ()),
        ):
            try:
                getattr(rig.engine, name)(*arguments)
            except MisuseError:
                refusals.append(name)

    for hook in ("fd_register", "fd_deregister"):
        rig.loop.during[hook] = misuse
    rig.engine.evdisable_domain_death(rig.engine.evenable_domain_death(1))
    assert len(refusals) == 10


def occurrences_must_not_be_reported_from_a_callback(rig: Rig) -> None:
    listener = rig.listen()
    refusals: list[MisuseError] = []

    def report(event: Event) -> None:
        for fd, events, token in list(rig.loop.fds.values()):
            try:
                rig.engine.osevent_occurred_fd(token, fd, events, events)
            except MisuseError as error:
                refusals.append(error)

    listener.then = report
    rig.queue_deaths(1)
    assert len(refusals) == 1


def hooks_are_registered_once_and_before_any_interest(rig: Rig) -> None:
    with pytest.raises(MisuseError, match="already"):
        rig.engine.osevent_register_hooks(rig.loop)
    bare = rig.fresh("poll")
    with bare.cleanup:
        evgen = bare.engine.evenable_domain_death(1)
        with pytest.raises(MisuseError, match="before"):
            bare.engine.osevent_register_hooks(bare.loop)
        bare.engine.evdisable_domain_death(evgen)
        bare.engine.osevent_register_hooks(bare.loop)
        bare.engine.evenable_domain_death(1)
        assert bare.loop.fds


def hooks_must_have_every_method(rig: Rig) -> None:
    class Half:
        def fd_register(self, fd: int, events: int, for_libxl: object) -> object:
            return None

    bare = rig.fresh("poll")
    with bare.cleanup:
        for hooks in (None, object(), Half()):
            with pytest.raises(TypeError):
                bare.engine.osevent_register_hooks(hooks)
        bare.engine.osevent_register_hooks(bare.loop)


def foreign_tokens_are_refused(rig: Rig) -> None:
    other = rig.another()
    other.engine.evenable_domain_death(1)
    [(fd, events, token)] = other.loop.fds.values()
    with pytest.raises(MisuseError):
        rig.engine.osevent_occurred_fd(token, fd, events, events)
    for wrong in (None, 0, object()):
        with pytest.raises(TypeError):
            rig.engine.osevent_occurred_fd(wrong, fd, events, events)
        with pytest.raises(TypeError):
            rig.engine.osevent_occurred_timeout(wrong)
    with pytest.raises(TypeError):
        rig.engine.osevent_occurred_timeout(token)


def each_engine_uses_its_own_hooks(rig: Rig) -> None:
    other = rig.another()
    rig.engine.evenable_domain_death(1)
    assert other.loop.calls == []
    other.engine.evenable_domain_death(1)
    assert len(rig.loop.fds) == len(other.loop.fds) == 1


def a_loop_may_report_one_fd_twice(rig: Rig) -> None:
    domid = rig.domain()
    rig.engine.evenable_domain_death(domid, 1)
    rig.settle()
    rig.host.destroy_domain(domid)
    [(fd, events, token)] = rig.loop.fds.values()
    _until_readable(rig, fd)
    for _ in range(2):
        rig.engine.osevent_occurred_fd(token, fd, events, POLLIN)
    assert rig.events() == [DomainDeath(domid, for_user=1)]


def no_hook_is_called_for_reading_the_queue(rig: Rig) -> None:
    rig.queue_deaths(1, 2)
    before = len(rig.loop.calls)
    rig.queued()
    rig.engine.osevent_beforepoll()
    rig.engine.domain_info(0)
    rig.engine.childproc_setmode(None)
    assert len(rig.loop.calls) == before


def _until_readable(rig: Rig, fd: int) -> None:
    poller = select.poll()
    poller.register(fd, POLLIN)
    assert poller.poll(rig.patience * 1000), "the engine's fd did not become readable"
