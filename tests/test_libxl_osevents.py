# SPDX-License-Identifier: LGPL-2.1-or-later
"""The header's osevent hooks on the real libxl."""

from __future__ import annotations

import select
import time
from collections.abc import Callable
from typing import Any

import pytest
from libxl_loop import Loop
from libxl_pump import Hooks

from gxl.engines.libxl import LibxlEngine
from gxl.errors import Disaster, MisuseError, OSEventRegFail, TimedOut
from gxl.events import DiskEject, DomainDeath, DomainShutdown
from gxl.interfaces import AsyncHow
from gxl.simhost.remote import RemoteHost

pytest_plugins = ["libxl_fixtures"]

Open = Callable[[], LibxlEngine]


@pytest.fixture
def loop(engine: LibxlEngine) -> Loop:
    return Loop(engine)


def test_hooks_see_the_watch_fd_come_and_go(engine: LibxlEngine, loop: Loop, host: RemoteHost) -> None:
    assert loop.log == []
    first, second = engine.evenable_domain_death(1), engine.evenable_domain_death(2)
    ((_, fd, events),) = loop.log
    assert events == select.POLLIN
    engine.evdisable_domain_death(first)
    engine.evdisable_domain_death(second)
    assert loop.log[1:] == [("fd_deregister", fd)]
    assert not loop.fds


def test_events_arrive_through_hooks(engine: LibxlEngine, loop: Loop, host: RemoteHost) -> None:
    domid = host.create_domain()
    host.add_disk(domid, "xvda")
    engine.evenable_domain_death(domid)
    engine.evenable_disk_eject(domid, "xvda")
    host.eject_disk(domid, "xvda")
    assert isinstance(loop.event(), DiskEject)
    host.shutdown_domain(domid, 1)
    assert loop.event() == DomainShutdown(domid, 1)
    host.destroy_domain(domid)
    assert loop.event() == DomainDeath(domid)


def test_a_stale_or_mistaken_fd_report_is_harmless(engine: LibxlEngine, loop: Loop, host: RemoteHost) -> None:
    evgen = engine.evenable_domain_death(1)
    ((fd, events, token),) = loop.fds.values()
    engine.osevent_occurred_fd(token, fd + 1, events, events)
    engine.osevent_occurred_fd(token, fd, 0, 0)
    engine.evdisable_domain_death(evgen)
    engine.osevent_occurred_fd(token, fd, events, events)
    engine.evenable_domain_death(1)
    ((fd, events, token),) = loop.fds.values()
    with pytest.raises(ValueError, match="must be C's"):
        engine.osevent_occurred_fd(token, fd, 1 << 20, 0)


def test_a_token_belongs_to_its_engine_and_kind(
    engine: LibxlEngine, loop: Loop, open_engine: Open, host: RemoteHost
) -> None:
    engine.evenable_domain_death(1)
    ((fd, events, token),) = loop.fds.values()
    with pytest.raises(MisuseError, match="another engine"):
        open_engine().osevent_occurred_fd(token, fd, events, events)
    with pytest.raises(TypeError, match="what the register hook was given"):
        engine.osevent_occurred_timeout(token)


@pytest.mark.parametrize("what", ["fd", "timeout"])
def test_an_event_must_not_be_reported_inside_a_hook(
    engine: LibxlEngine, loop: Loop, host: RemoteHost, what: str
) -> None:
    domid = host.create_domain()
    how = AsyncHow()
    engine.domain_shutdown(domid, how)
    ((fd, events, fd_token),) = loop.fds.values()
    ((_, timeout_token),) = loop.timeouts.values()
    refused = []

    def during(hook: str) -> None:
        for call in (
            lambda: engine.osevent_occurred_fd(fd_token, fd, events, events),
            lambda: engine.osevent_occurred_timeout(timeout_token),
            engine.event_check,
            engine.list_domain,
            engine.ctx_free,
            lambda: engine.childproc_setmode(None),
        ):
            with pytest.raises(MisuseError, match="inside an osevent hook"):
                call()
        refused.append(hook)

    loop.during = during
    engine.ao_abort(how)
    assert {"timeout_modify", "fd_deregister"} <= set(refused)
    loop.during = None
    loop.until(lambda: not loop.timeouts)


def test_a_timeout_that_is_cancelled_occurs_exactly_once(engine: LibxlEngine, loop: Loop, host: RemoteHost) -> None:
    domid = host.create_domain()
    how = AsyncHow()
    before = time.time()
    engine.domain_shutdown(domid, how)
    ((when, token),) = loop.timeouts.values()
    assert before + 59 < when < time.time() + 60.001
    engine.ao_abort(how)
    # libxl says it twice for one registration.
    assert [call for call in loop.log if call[0] == "timeout_modify"] == [("timeout_modify", 0.0)] * 2
    engine.osevent_occurred_timeout(token)
    with pytest.raises(MisuseError, match="has occurred already"):
        engine.osevent_occurred_timeout(token)
    loop.timeouts.clear()
    assert engine.event_check() is not None


def test_timeouts_that_follow_one_another_have_tokens_of_their_own(
    engine: LibxlEngine, loop: Loop, host: RemoteHost
) -> None:
    domid = host.create_domain()
    tokens = []
    for _ in range(5):
        how = AsyncHow()
        engine.domain_shutdown(domid, how)
        ((_, token),) = loop.timeouts.values()
        tokens.append(token)
        engine.ao_abort(how)
        loop.until(lambda: not loop.timeouts)
    assert len(set(map(id, tokens))) == 5
    for token in tokens:
        with pytest.raises(MisuseError, match="has occurred already"):
            engine.osevent_occurred_timeout(token)


def test_a_timeout_that_is_due_ends_its_operation(engine: LibxlEngine, loop: Loop, host: RemoteHost) -> None:
    done: list[int] = []
    engine.domain_shutdown(host.create_domain(), AsyncHow(callback=done.append))
    ((_, token),) = loop.timeouts.values()
    loop.timeouts.clear()
    engine.osevent_occurred_timeout(token)  # libxl does not look at the clock again
    assert done == [-9]


@pytest.mark.parametrize(("error", "rc"), [(OSEventRegFail(7), 7), (OSEventRegFail(), -12), (LookupError("full"), -12)])
@pytest.mark.parametrize("kind", ["death", "eject"])
def test_a_hook_that_fails_fails_the_evgen(
    engine: LibxlEngine, loop: Loop, host: RemoteHost, kind: str, error: Exception, rc: int
) -> None:
    domid = host.create_domain()
    enable: Any = {
        "death": lambda: engine.evenable_domain_death(domid),
        "eject": lambda: engine.evenable_disk_eject(domid, "xvda"),
    }[kind]
    loop.raises["fd_register"] = error
    with pytest.raises(OSEventRegFail) as raised:
        enable()
    assert raised.value.rc == rc
    assert raised.value.__cause__ is error
    assert not loop.fds
    assert engine.dead is None
    # The failed registration has left nothing behind: the next one works, and hooks may still be what they were.
    loop.raises.clear()
    enable()
    assert len(loop.fds) == 1


def test_a_hook_that_is_interrupted_lets_the_interrupt_through(
    engine: LibxlEngine, loop: Loop, host: RemoteHost
) -> None:
    loop.raises["fd_register"] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        engine.evenable_domain_death(1)
    loop.raises.clear()
    engine.event_register_callbacks(None)  # which is refused while evgens are enabled
    engine.evenable_domain_death(1)
    assert len(loop.fds) == 1


@pytest.mark.parametrize("function", ["domain_shutdown", "domain_reboot"])
def test_a_failing_timeout_hook_is_a_disaster_and_no_crash_and_the_timeout_occurs_at_once(
    engine: LibxlEngine, loop: Loop, host: RemoteHost, function: str
) -> None:
    done: list[int] = []
    how = AsyncHow(callback=done.append)
    loop.raises["timeout_register"] = LookupError("no timers left")
    with pytest.raises(Disaster, match="no timers left") as raised:
        getattr(engine, function)(host.create_domain(), how)
    assert raised.value.type == 0
    assert isinstance(raised.value.__cause__, LookupError)
    assert engine.dead is None
    assert done == [TimedOut.code]


def test_a_failing_fd_hook_of_an_operation_ends_the_engine(open_engine: Open, host: RemoteHost) -> None:
    told: list[tuple[int, str, int]] = []
    engine = open_engine()
    engine.event_register_callbacks(Hooks(0, lambda *disaster: told.append(disaster)))
    loop = Loop(engine)
    domid = host.create_domain()
    evgen = engine.evenable_domain_death(domid)
    engine.evdisable_domain_death(evgen)
    loop.raises["fd_register"] = LookupError("no fds left")
    host.add_disk(domid, "xvda", "vbd")
    engine.domain_destroy(domid, AsyncHow())
    assert [(kind, errnoval) for kind, _, errnoval in told] == [(0, 0)]
    assert "no fds left" in told[0][1]
    assert engine.dead is not None
    with pytest.raises(Disaster, match="no fds left"):
        engine.event_check()


def test_hooks_whose_failure_changes_nothing_are_heard_too(engine: LibxlEngine, loop: Loop, host: RemoteHost) -> None:
    done: list[int] = []
    how = AsyncHow(callback=done.append)
    engine.domain_shutdown(host.create_domain(), how)
    loop.raises = {"fd_deregister": LookupError("odd"), "timeout_modify": OSEventRegFail(9)}
    with pytest.raises(ExceptionGroup) as raised:
        engine.ao_abort(how)
    assert [type(error) for error in raised.value.exceptions] == [OSEventRegFail, OSEventRegFail, LookupError]
    assert done == [-22]
    assert engine.dead is None


def test_closing_ends_even_if_a_hook_raises(leaves_nothing: None, engine: LibxlEngine, loop: Loop) -> None:
    engine.evenable_domain_death(1)
    loop.raises["fd_deregister"] = LookupError("odd")
    with pytest.raises(LookupError, match="odd"):
        engine.ctx_free()
    with pytest.raises(MisuseError, match="closed"):
        engine.event_check()


def test_hooks_are_registered_once_and_before_any_interest(open_engine: Open, host: RemoteHost) -> None:
    engine = open_engine()
    loop = Loop(engine)
    with pytest.raises(MisuseError, match="has hooks already"):
        engine.osevent_register_hooks(loop)
    engine = open_engine()
    evgen = engine.evenable_domain_death(1)
    with pytest.raises(MisuseError, match="interested in fds already"):
        Loop(engine)
    engine.evdisable_domain_death(evgen)
    how = AsyncHow()
    engine.domain_shutdown(host.create_domain(), how)
    with pytest.raises(MisuseError, match="interested in fds already"):
        Loop(engine)
    engine.ao_abort(how)
    Loop(engine)
