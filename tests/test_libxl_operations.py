# SPDX-License-Identifier: LGPL-2.1-or-later
"""Operations of the real libxl, asynchronous and synchronous."""

from __future__ import annotations

import pytest
from libxl_pump import Hooks, drained, pump, queued

from gxl.engines.libxl import LibxlEngine
from gxl.errors import DomainNotFound, Fail, LibxlError, MisuseError, NotFound
from gxl.events import OperationComplete, mask
from gxl.interfaces import AsyncHow
from gxl.simhost.remote import RemoteHost

pytest_plugins = ["libxl_fixtures"]


def test_synchronous_operations_do_what_they_say(engine: LibxlEngine, host: RemoteHost) -> None:
    domid = host.create_domain()
    engine.domain_pause(domid)
    assert engine.domain_info(domid).paused
    engine.domain_unpause(domid)
    assert not engine.domain_info(domid).paused
    engine.domain_destroy(domid)
    with pytest.raises(DomainNotFound):
        engine.domain_info(domid)
    with pytest.raises(DomainNotFound, match=r"domain_destroy\(\d+\): libxl error -21"):
        engine.domain_destroy(domid)
    assert drained(engine) == []


def test_an_operation_reports_by_an_event(engine: LibxlEngine, host: RemoteHost) -> None:
    domid = host.create_domain()
    engine.domain_pause(domid, AsyncHow(for_event=2**64 - 1))
    engine.domain_destroy(domid, AsyncHow(for_event=0))
    assert engine.event_wait() == OperationComplete(domid, 0, for_user=2**64 - 1)
    assert engine.event_wait() == OperationComplete(domid, 0, for_user=0)


def test_an_operation_reports_by_a_callback_perhaps_before_its_start_returns(
    engine: LibxlEngine, host: RemoteHost
) -> None:
    domid = host.create_domain()
    done: list[int] = []
    engine.domain_pause(domid, AsyncHow(callback=done.append))
    assert done == [0]
    engine.domain_destroy(domid, AsyncHow(callback=done.append))
    while len(done) < 2:
        pump(engine)
    assert done == [0, 0]
    assert queued(engine) == []


def test_a_callback_may_call_the_engine_and_what_it_raises_is_raised(engine: LibxlEngine, host: RemoteHost) -> None:
    domid = host.create_domain()

    def callback(rc: int) -> None:
        engine.domain_unpause(domid)
        raise LookupError(rc)

    with pytest.raises(LookupError, match="0"):
        engine.domain_pause(domid, AsyncHow(callback=callback))
    assert not engine.domain_info(domid).paused


def test_a_failure_before_the_start_is_raised_and_not_reported(engine: LibxlEngine, host: RemoteHost) -> None:
    done: list[int] = []
    for how in (AsyncHow(for_event=1), AsyncHow(callback=done.append)):
        with pytest.raises(LibxlError):
            engine.domain_pause(1234, how)
        with pytest.raises(NotFound):
            engine.ao_abort(how)
    assert done == []
    assert queued(engine) == []
    engine.ctx_free()


def test_a_failure_after_the_start_is_reported(engine: LibxlEngine, host: RemoteHost) -> None:
    engine.domain_destroy(1234, AsyncHow(for_event=1))
    assert engine.event_wait() == OperationComplete(1234, -21, for_user=1)


def test_an_events_mask_also_routes_the_ends_of_operations(engine: LibxlEngine, host: RemoteHost) -> None:
    hooks = Hooks(mask(OperationComplete))
    engine.event_register_callbacks(hooks)
    domid = host.create_domain()
    engine.domain_pause(domid, AsyncHow(for_event=5))
    assert hooks.events == [OperationComplete(domid, 0, for_user=5)]
    engine.ctx_free()


@pytest.mark.parametrize("first", [0, 1])
def test_abort_knows_operations_with_the_same_for_event_apart(
    engine: LibxlEngine, host: RemoteHost, first: int
) -> None:
    domids = [host.create_domain(), host.create_domain()]
    hows = [AsyncHow(for_event=7), AsyncHow(for_event=7)]
    for domid, how in zip(domids, hows, strict=True):
        engine.domain_shutdown(domid, how)
    for index in (first, 1 - first):
        engine.ao_abort(hows[index])
        assert drained(engine) == [OperationComplete(domids[index], -22, for_user=7)]
        with pytest.raises(NotFound):
            engine.ao_abort(hows[index])
    with pytest.raises(NotFound):
        engine.ao_abort(AsyncHow(for_event=7))


def test_a_ctx_with_operations_under_way_is_not_freed_and_goes_on(engine: LibxlEngine, host: RemoteHost) -> None:
    domid = host.create_domain()
    done: list[int] = []
    hows = [AsyncHow(for_event=7), AsyncHow(callback=done.append)]
    engine.domain_shutdown(domid, hows[0])
    engine.domain_shutdown(domid, hows[1])
    with pytest.raises(MisuseError, match="2 operations under way"):
        engine.ctx_free()
    engine.ao_abort(hows[1])
    assert done == [-22]
    with pytest.raises(MisuseError, match="1 operations under way"):
        engine.ctx_free()
    engine.ao_abort(hows[0])
    # Its event is in the queue, where nobody will take it: that is no reason to stay.
    engine.ctx_free()


def test_a_ctx_with_a_child_is_not_freed(engine: LibxlEngine, host: RemoteHost) -> None:
    domid = host.create_domain()
    engine.domain_destroy(domid, AsyncHow())
    with pytest.raises(MisuseError, match="1 operations under way"):
        engine.ctx_free()
    assert engine.event_wait() == OperationComplete(domid, 0)


def test_an_operation_that_fails_in_its_child_says_why(
    engine: LibxlEngine, host: RemoteHost, caplog: pytest.LogCaptureFixture
) -> None:
    domid = host.create_domain()
    host.fail_next("destroydomain", 16)
    with pytest.raises(Fail):
        engine.domain_destroy(domid)
    assert "xc_domain_destroy failed" in caplog.text
