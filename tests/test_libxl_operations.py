# SPDX-License-Identifier: LGPL-2.1-or-later
"""Operations of the real libxl, asynchronous and synchronous."""

from __future__ import annotations

import json
import os

import pytest
from libxl_pump import Hooks, drained, pump, queued

from gxl.engines.libxl import LibxlEngine
from gxl.errors import DomainNotFound, Fail, Inval, LibxlError, MisuseError, NotFound
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


def with_a_cd_drive(host: RemoteHost) -> int:
    """An HVM domain, with the notes that libxl keeps of each domain that it created."""
    domid = host.create_domain(kind="hvm")
    host.add_disk(domid, "hdc")
    identity = str(host.domain_info(domid).uuid)
    notes = {"c_info": {"type": "hvm", "name": "guest", "uuid": identity}, "b_info": {"type.hvm": {}}}
    (host.directory / "lib" / f"userdata-d.{domid}.{identity}.libxl-json").write_text(json.dumps(notes))
    return domid


def test_a_cd_is_put_in_and_taken_out(engine: LibxlEngine, host: RemoteHost) -> None:
    domid = with_a_cd_drive(host)
    params = f"/local/domain/0/backend/qdisk/{domid}/5632/params"
    engine.cdrom_insert(domid, "hdc", "/isos/a.iso", how=AsyncHow(for_event=3))
    assert engine.event_wait() == OperationComplete(domid, 0, for_user=3)
    assert host.read(params) == b"aio:/isos/a.iso"
    engine.cdrom_insert(domid, "hdc", "/images/b.qcow2", "qcow2")
    assert host.read(params) == b"qcow2:/images/b.qcow2"
    engine.cdrom_insert(domid, "hdc", None)
    assert host.read(params) == b""


def test_a_cd_goes_into_drives_of_hvm_domains_only(engine: LibxlEngine, host: RemoteHost) -> None:
    domid = host.create_domain()
    host.add_disk(domid, "xvda")
    with pytest.raises(Inval):
        engine.cdrom_insert(domid, "xvda", "/isos/a.iso")
    with pytest.raises(Fail):
        engine.cdrom_insert(with_a_cd_drive(host), "hdd", "/isos/a.iso")


@pytest.mark.parametrize("how", [None, AsyncHow(for_event=1)])
def test_a_configuration_that_libxl_can_not_read_starts_nothing(
    engine: LibxlEngine, host: RemoteHost, how: AsyncHow | None
) -> None:
    for wrong in ({"c_info": {"type": "nonsense"}}, {"c_info": {}, "disks": [{"backend": "nonsense"}]}):
        wrong |= {"b_info": {}}
        with pytest.raises(Fail, match="can't read the domain_config"):
            engine.domain_create_new(json.dumps(wrong), how)
        with pytest.raises(Fail, match="can't read the domain_config"):
            engine.domain_create_restore(json.dumps(wrong), 0, how)
    assert queued(engine) == []
    engine.ctx_free()


def test_a_creation_that_fails_is_reported_and_gives_back_what_it_used(engine: LibxlEngine, host: RemoteHost) -> None:
    # The simulated hypervisor builds no domains.
    config = json.dumps({"c_info": {"type": "pv", "name": "new"}, "b_info": {"max_memkb": 4096, "type.pv": {}}})
    new = engine.domain_create_new(config, AsyncHow(for_event=8), console=9)
    assert engine.event_wait() == OperationComplete(0, Inval.code, for_user=8)
    assert new.domid is None
    with pytest.raises(Inval):
        engine.domain_create_new(config)
    reader, writer = os.pipe2(os.O_NONBLOCK)
    with pytest.raises(Inval):
        engine.domain_create_restore(config, reader)
    assert not os.get_blocking(reader)
    os.close(reader)
    os.close(writer)


def test_saving_needs_a_domain_and_an_fd(engine: LibxlEngine, host: RemoteHost) -> None:
    reader, writer = os.pipe()
    with pytest.raises(Fail):
        engine.domain_suspend(1234, writer)
    with pytest.raises(Fail):
        engine.domain_suspend(host.create_domain(), 9999)
    with pytest.raises(ValueError, match="fd must be"):
        engine.domain_suspend(1, -1)
    with pytest.raises(ValueError, match="console must be"):
        engine.domain_create_new('{"c_info": {}, "b_info": {}}', None, -1)
    os.close(reader)
    os.close(writer)
