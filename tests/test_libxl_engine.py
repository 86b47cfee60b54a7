# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the libxl engine refuses, what it says of domains, whose it is, and how it ends."""

from __future__ import annotations

import errno
import gc
import os
import select
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from uuid import UUID

import pytest
from libxl_loop import Loop
from libxl_pump import Hooks, queued
from zope.interface.verify import verifyObject

from gxl.engines.libxl import LibxlEngine
from gxl.errors import DomainNotFound, Fail, MisuseError
from gxl.events import DomainDeath, OperationComplete, ShutdownReason, mask
from gxl.interfaces import AsyncHow, IEngine, IStoreConnection
from gxl.simhost.remote import RemoteHost

pytest_plugins = ["libxl_fixtures"]

Open = Callable[[], LibxlEngine]


def test_malformed_arguments_are_refused(engine: LibxlEngine) -> None:
    cases: list[tuple[type[Exception], Callable[[], object]]] = [
        (TypeError, lambda: engine.evenable_domain_death("1")),  # type: ignore[arg-type]  # that it is refused is what is tested
        (ValueError, lambda: engine.evenable_domain_death(-1)),
        (ValueError, lambda: engine.evenable_domain_death(2**32)),
        (ValueError, lambda: engine.evenable_domain_death(1, 2**64)),
        (TypeError, lambda: engine.evenable_domain_death(True)),
        (ValueError, lambda: engine.evenable_disk_eject(1, "nonsense")),
        (TypeError, lambda: engine.evenable_disk_eject(1, b"xvda")),  # type: ignore[arg-type]  # that it is refused is what is tested
        (ValueError, lambda: engine.event_check(1 << 30)),
        (TypeError, lambda: engine.event_check(predicate=3)),  # type: ignore[arg-type]  # that it is refused is what is tested
        (TypeError, lambda: engine.event_wait(predicate=3)),  # type: ignore[arg-type]  # that it is refused is what is tested
        (TypeError, lambda: engine.domain_pause(1, 5)),  # type: ignore[arg-type]  # that it is refused is what is tested
        (TypeError, lambda: engine.ao_abort(None)),  # type: ignore[arg-type]  # that it is refused is what is tested
        (ValueError, lambda: engine.osevent_beforepoll(-1.0)),
        (TypeError, lambda: engine.osevent_beforepoll("now")),  # type: ignore[arg-type]  # that it is refused is what is tested
        (ValueError, lambda: engine.osevent_beforepoll(float("nan"))),
        (ValueError, lambda: engine.osevent_afterpoll([(-1, 1, 1)])),
        (ValueError, lambda: engine.osevent_afterpoll([(1, 1 << 20, 1)])),
        (TypeError, lambda: engine.osevent_occurred_fd(object(), 1, 1, 1)),
        (TypeError, lambda: engine.osevent_occurred_timeout(None)),
        (TypeError, lambda: engine.osevent_register_hooks(object())),
        (TypeError, lambda: engine.childproc_setmode(object())),
        (TypeError, lambda: engine.evdisable_domain_death(object())),
    ]
    for expected, call in cases:
        with pytest.raises(expected):
            call()
    assert engine.osevent_beforepoll()[1] is None


def test_domains_are_told_by_hypercall(engine: LibxlEngine, host: RemoteHost) -> None:
    uuid = UUID("01234567-89ab-cdef-0123-456789abcdef")
    first = host.create_domain("web", uuid=uuid, memory_kb=131072)
    second = host.create_domain("db", paused=True)
    third = host.create_domain()
    host.shutdown_domain(third, 3)
    info = engine.domain_info(first)
    assert (info.domid, info.uuid, info.shutdown, info.shutdown_reason) == (first, uuid, False, None)
    assert info.current_memory_kb == 131072
    assert info.max_memory_kb >= 131072
    assert engine.domain_info(second).paused
    with host.stalled():  # xenstored accepts, but does not answer
        listed = engine.list_domain()
    assert [entry.domid for entry in listed] == [0, first, second, third]
    assert listed[3].shutdown_reason is ShutdownReason.CRASH
    assert listed[1].uuid == uuid
    with pytest.raises(DomainNotFound):
        engine.domain_info(third + 1)
    host.fail_next("getdomaininfolist", errno.EIO)
    with pytest.raises(Fail, match="list_domain"):
        engine.list_domain()


def test_listing_strides_over_more_domains_than_one_hypercall_holds(engine: LibxlEngine, host: RemoteHost) -> None:
    with host.quiet():
        uuids = {domid: UUID(int=domid) for domid in (host.create_domain(uuid=UUID(int=n)) for n in range(1, 1101))}
    listed = engine.list_domain()
    assert [entry.domid for entry in listed] == [0, *sorted(uuids)]
    assert {entry.domid: entry.uuid for entry in listed[1:]} == uuids
    assert {entry.current_memory_kb for entry in listed[1:]} == {256 * 1024}


def test_evgens_are_disabled_once_and_by_their_own_engine_and_function(engine: LibxlEngine, open_engine: Open) -> None:
    death, eject = engine.evenable_domain_death(1), engine.evenable_disk_eject(1, "xvda")
    with pytest.raises(MisuseError, match="is no DiskEjectEvgen"):
        engine.evdisable_disk_eject(death)
    with pytest.raises(MisuseError, match="is no DomainDeathEvgen"):
        engine.evdisable_domain_death(eject)
    with pytest.raises(MisuseError, match="another engine"):
        open_engine().evdisable_domain_death(death)
    engine.evdisable_domain_death(death)
    engine.evdisable_disk_eject(eject)
    with pytest.raises(MisuseError, match="disabled already"):
        engine.evdisable_domain_death(death)
    with pytest.raises(MisuseError, match="disabled already"):
        engine.evdisable_disk_eject(eject)


def test_an_eject_evgen_on_a_dead_xenstored_is_an_error_and_no_crash(engine: LibxlEngine, host: RemoteHost) -> None:
    # The host drops connections that it has accepted; a request has been answered on this one.
    engine.evdisable_domain_death(engine.evenable_domain_death(0))
    host.drop_connections()
    with pytest.raises(Fail, match="xenstore can't be read"):
        engine.evenable_disk_eject(1, "xvda")
    with pytest.raises(Fail):
        engine.evenable_domain_death(1)


def test_a_closed_engine_refuses_everything_but_closing(open_engine: Open) -> None:
    engine = open_engine()
    evgen = engine.evenable_domain_death(1)
    engine.ctx_free()
    engine.ctx_free()
    for call in (engine.event_check, engine.list_domain, lambda: engine.evdisable_domain_death(evgen)):
        with pytest.raises(MisuseError, match="closed"):
            call()


def test_closing_leaves_no_fd_and_no_thread_behind(leaves_nothing: None, engine: LibxlEngine, host: RemoteHost) -> None:
    domid = host.create_domain()
    engine.evenable_domain_death(domid)
    engine.evenable_disk_eject(domid, "xvda")
    engine.domain_destroy(domid, AsyncHow())
    engine.event_wait(mask(OperationComplete))


def test_an_engine_that_is_dropped_says_so(host: RemoteHost) -> None:
    engines = [LibxlEngine()]
    pointer, lib, log = engines[0]._ctx.pointer, engines[0]._ctx.lib, engines[0]._ctx.log
    engines.clear()
    with pytest.warns(ResourceWarning, match="without ctx_free"):
        gc.collect()
    lib.libxl_ctx_free(pointer)
    log.close()


def test_closing_is_refused_while_another_thread_is_inside(engine: LibxlEngine, host: RemoteHost) -> None:
    domid = host.create_domain()
    thread = threading.Thread(target=engine.event_wait)
    thread.start()
    while not engine._ctx._waiting:
        time.sleep(0.001)
    with pytest.raises(MisuseError, match="another thread"):
        engine.ctx_free()
    engine.domain_pause(domid, AsyncHow())
    thread.join(10)
    assert not thread.is_alive()


def test_a_claimed_engine_is_its_owners(engine: LibxlEngine, host: RemoteHost) -> None:
    entered = []

    @contextmanager
    def no_switch() -> Iterator[None]:
        entered.append("in")
        yield
        entered.append("out")

    domid = host.create_domain()
    owner = engine.claim(no_switch)
    assert verifyObject(IEngine, owner)
    loop = Loop(owner)
    refused: list[Callable[[], object]] = [
        engine.event_check,
        engine.event_wait,
        engine.osevent_beforepoll,
        engine.ctx_free,
        engine.postfork_child_noexec,
        engine.childproc_sigchld_occurred,
        lambda: engine.claim(no_switch),
        lambda: engine.osevent_afterpoll([]),
        lambda: engine.osevent_register_hooks(loop),
        lambda: engine.evenable_domain_death(domid),
        lambda: engine.evenable_disk_eject(domid, "xvda"),
        lambda: engine.event_register_callbacks(None),
        lambda: engine.childproc_setmode(None),
        lambda: engine.childproc_reaped(1, 0),
        lambda: engine.domain_pause(domid),
        lambda: engine.domain_destroy(domid),
    ]
    for call in refused:
        with pytest.raises(MisuseError, match="belongs to a Context"):
            call()
    done: list[int] = []
    engine.domain_pause(domid, AsyncHow(callback=done.append))
    assert (done, entered) == ([0], ["in", "out"])
    assert engine.domain_info(domid).paused
    assert [info.domid for info in engine.list_domain()] == [0, domid]
    engine.xenstore_connect().close()
    how = AsyncHow(callback=done.append)
    engine.domain_shutdown(domid, how)
    engine.ao_abort(how)
    loop.until(lambda: done == [0, -22] and not loop.timeouts)
    entered.clear()
    owner.evenable_domain_death(domid)
    assert entered == ["in", "out"]  # fd_register
    host.destroy_domain(domid)
    assert loop.event() == DomainDeath(domid)
    owner.ctx_free()
    with pytest.raises(MisuseError, match="closed"):
        engine.list_domain()
    engine._claimed = False  # so that the fixture can close it


def test_only_an_unused_engine_can_be_claimed(open_engine: Open, host: RemoteHost) -> None:
    domid = host.create_domain()
    engine = open_engine()
    Loop(engine)
    with pytest.raises(MisuseError, match="has osevent hooks"):
        engine.claim(nullcontext)
    engine = open_engine()
    engine.event_register_callbacks(Hooks())
    with pytest.raises(MisuseError, match="has event callbacks"):
        engine.claim(nullcontext)
    engine = open_engine()
    engine.evenable_domain_death(domid)
    with pytest.raises(MisuseError, match="has evgens"):
        engine.claim(nullcontext)
    engine = open_engine()
    how = AsyncHow()
    engine.domain_shutdown(domid, how)
    with pytest.raises(MisuseError, match="has operations"):
        engine.claim(nullcontext)
    engine.ao_abort(how)
    with pytest.raises(MisuseError, match="has events in its queue"):
        engine.claim(nullcontext)
    assert len(queued(engine)) == 1


def in_child(act: Callable[[], object]) -> str:
    """What `act` returns in a forked child."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(write_end, str(act()).encode())
        except BaseException as error:
            os.write(write_end, f"{type(error).__name__}: {error}".encode())
        os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end) as answer:
        said = answer.read()
    os.waitpid(pid, 0)
    return said


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_child_can_only_let_go_of_the_engine(engine: LibxlEngine, host: RemoteHost) -> None:
    domid = host.create_domain()
    engine.evenable_domain_death(domid)
    with pytest.raises(MisuseError, match="is for a forked child"):
        engine.postfork_child_noexec()
    assert in_child(engine.event_check).startswith("MisuseError: this engine belongs to the parent process")
    assert in_child(engine.ctx_free).startswith("MisuseError: this engine belongs to the parent process")

    def let_go() -> str:
        engine.postfork_child_noexec()
        with pytest.raises(MisuseError, match="postfork_child_noexec has been called"):
            engine.event_check()
        with pytest.raises(MisuseError, match="postfork_child_noexec has been called"):
            engine.postfork_child_noexec()
        another = LibxlEngine()
        domids = [info.domid for info in another.list_domain()]
        another.ctx_free()
        return f"{domids}"

    assert in_child(let_go) == f"[0, {domid}]"
    host.destroy_domain(domid)
    assert engine.event_wait() == DomainDeath(domid)


def test_a_store_connection_speaks_to_the_engines_xenstored(engine: LibxlEngine, host: RemoteHost) -> None:
    connection = engine.xenstore_connect()
    assert verifyObject(IStoreConnection, connection)
    with pytest.raises(BlockingIOError):
        connection.recv(100)
    path = b"/local/domain/0/name\0"
    assert connection.send((2).to_bytes(4, "little") + bytes(8) + len(path).to_bytes(4, "little") + path) > 0
    select.select([connection.fileno()], [], [], 10)
    assert connection.recv(1000)[16:] == host.read("/local/domain/0/name")
    host.drop_connections()
    select.select([connection.fileno()], [], [], 10)
    assert connection.recv(100) == b""
    connection.close()
    connection.close()


def test_without_xenstored_there_is_no_store_connection(
    engine: LibxlEngine, monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    monkeypatch.setenv("XENSTORED_RUNDIR", f"{tmp_path}")
    monkeypatch.setenv("XENSTORED_PATH", f"{tmp_path}/xenbus")
    with pytest.raises(FileNotFoundError):
        engine.xenstore_connect()


def test_a_store_connection_can_be_a_device(
    engine: LibxlEngine, monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    device = f"{tmp_path}/xenbus"
    os.mkfifo(device)
    monkeypatch.setenv("XENSTORED_RUNDIR", f"{tmp_path}")
    monkeypatch.setenv("XENSTORED_PATH", device)
    connection = engine.xenstore_connect()
    assert verifyObject(IStoreConnection, connection)
    with pytest.raises(BlockingIOError):
        connection.recv(100)
    assert connection.send(b"hello") == 5
    assert connection.recv(100) == b"hello"
    connection.close()
    connection.close()
