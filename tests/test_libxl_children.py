# SPDX-License-Identifier: LGPL-2.1-or-later
"""The real libxl's children: forking, reaping, and who has SIGCHLD."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from libxl_pump import Hooks, drained, pump, pump_for_ever
from requirements import Requirements

from gxl.engines.libxl import LibxlEngine, children
from gxl.engines.libxl.children import plain_fork
from gxl.engines.libxl.loading import ffi, libc
from gxl.errors import Disaster, Fail, MisuseError
from gxl.events import OperationComplete
from gxl.forking import in_library_fork
from gxl.interfaces import AsyncHow, SigchldOwner
from gxl.simhost.remote import RemoteHost

pytest_plugins = ["libxl_fixtures"]

EVERY_MODE = pytest.mark.parametrize("mode", list(SigchldOwner))
OWN_SIGCHLD = [SigchldOwner.LIBXL, SigchldOwner.LIBXL_ALWAYS, SigchldOwner.LIBXL_ALWAYS_SELECTIVE_REAP]


def hooks(mode: int, fork_replacement: Any = None, reaped_callback: Any = None) -> SimpleNamespace:
    """IChildProcHooks."""
    return SimpleNamespace(chldowner=mode, fork_replacement=fork_replacement, reaped_callback=reaped_callback)


def exit_at_once(status: int = 0) -> int:
    """A child of the application's."""
    pid = plain_fork()
    if pid == 0:
        os._exit(status)
    return pid


@pytest.fixture
def handler() -> Iterator[Callable[[int, object], None]]:
    """A SIGCHLD handler of the application's."""

    def application_handler(signum: int, frame: object) -> None:
        raise AssertionError("no child ends here")

    before = signal.signal(signal.SIGCHLD, application_handler)
    yield application_handler
    signal.signal(signal.SIGCHLD, before)


def finish(engine: LibxlEngine, pids: list[int]) -> list[Any]:
    """Pump, and reap libxl's children where that is the application's duty, until there is an event."""
    while not (events := drained(engine)):
        if pids and engine._ctx.children.mode is SigchldOwner.MAINLOOP:
            pid = pids.pop()
            assert engine.childproc_reaped(*os.waitpid(pid, 0))
            assert not engine.childproc_reaped(pid, 0)
        else:
            pump(engine)
    return events


@EVERY_MODE
def test_libxl_forks_and_its_children_are_reaped(engine: LibxlEngine, host: RemoteHost, mode: SigchldOwner) -> None:
    pids: list[int] = []

    def fork() -> int:
        assert in_library_fork()
        pid = plain_fork()
        pids.append(pid)
        return pid

    engine.childproc_setmode(hooks(mode, fork))
    domid = host.create_domain()
    engine.domain_destroy(domid, AsyncHow(for_event=4))
    assert finish(engine, pids) == [OperationComplete(domid, 0, for_user=4)]
    assert [info.domid for info in host.domains()] == [0]
    engine.childproc_setmode(None)
    assert signal.getsignal(signal.SIGCHLD) is signal.SIG_DFL


@EVERY_MODE
def test_the_engines_own_fork_serves_every_mode(engine: LibxlEngine, host: RemoteHost, mode: SigchldOwner) -> None:
    engine.childproc_setmode(hooks(mode))
    domid = host.create_domain()
    engine.domain_destroy(domid, AsyncHow())
    pids = list(engine._ctx.children._pids)
    assert len(pids) == 1
    assert finish(engine, pids) == [OperationComplete(domid, 0)]


observer: int | None = None
"""Where children report whose they are."""


def _report_in_child() -> None:
    if observer is not None:
        os.write(observer, b"libxl's " if in_library_fork() else b"application's ")


os.register_at_fork(after_in_child=_report_in_child)


def test_at_fork_handlers_can_tell_libxls_children_from_the_applications(
    engine: LibxlEngine, host: RemoteHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_end, write_end = os.pipe()
    monkeypatch.setattr(sys.modules[__name__], "observer", write_end)
    engine.domain_destroy(host.create_domain())
    os.waitpid(exit_at_once(), 0)
    os.close(write_end)
    with os.fdopen(read_end) as reports:
        assert reports.read() == "libxl's application's "


@pytest.mark.parametrize("code", [errno.EAGAIN, errno.ENOMEM])
def test_a_fork_that_fails_fails_the_operation(
    engine: LibxlEngine, host: RemoteHost, caplog: pytest.LogCaptureFixture, code: int
) -> None:
    def fork() -> int:
        raise OSError(code, "no")

    engine.childproc_setmode(hooks(SigchldOwner.LIBXL, fork))
    with pytest.raises(Fail):
        engine.domain_destroy(host.create_domain())
    assert f"fork failed: {os.strerror(code)}" in caplog.text


@pytest.mark.parametrize("pid", [-1, None, "7"])
def test_a_fork_that_breaks_its_promise_is_reported(engine: LibxlEngine, host: RemoteHost, pid: object) -> None:
    engine.childproc_setmode(hooks(SigchldOwner.MAINLOOP, lambda: pid))
    domid = host.create_domain()
    with pytest.raises(TypeError, match="must return a pid"):
        engine.domain_destroy(domid, AsyncHow())
    assert finish(engine, []) == [OperationComplete(domid, -3)]


def test_the_engine_can_not_be_called_where_it_forks(engine: LibxlEngine, host: RemoteHost) -> None:
    def fork() -> int:
        with pytest.raises(MisuseError, match="inside fork_replacement"):
            engine.event_check()
        return plain_fork()

    engine.childproc_setmode(hooks(SigchldOwner.LIBXL, fork))
    engine.domain_destroy(host.create_domain())


def test_in_libxls_middle_process_a_fork_is_a_plain_one(
    engine: LibxlEngine, host: RemoteHost, capfd: pytest.CaptureFixture[str]
) -> None:
    """Where a device model is started, libxl's child forks again, through the same hook."""
    ctx = engine._ctx
    calls = []

    def fork() -> int:
        calls.append(1)
        pid = plain_fork()
        if pid == 0:
            grandchild = children._fork_replacement(ctx.handle)
            if grandchild == 0:
                os._exit(7)
            status = os.waitstatus_to_exitcode(os.waitpid(grandchild, 0)[1])
            os._exit(0 if (status, len(calls), in_library_fork()) == (7, 1, True) else 1)
        return pid

    engine.childproc_setmode(hooks(SigchldOwner.LIBXL, fork))
    engine.domain_destroy(host.create_domain())
    assert capfd.readouterr().err == ""


def test_sigchld_occurred_reaps_libxls_children_and_no_others(engine: LibxlEngine, host: RemoteHost) -> None:
    engine.childproc_setmode(hooks(SigchldOwner.MAINLOOP))
    own = exit_at_once(3)
    domid = host.create_domain()
    engine.domain_destroy(domid, AsyncHow())
    (pid,) = engine._ctx.children._pids
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    with pytest.raises(MisuseError, match="operations under way"):
        engine.ctx_free()
    engine.childproc_sigchld_occurred()
    assert drained(engine) == [OperationComplete(domid, 0)]
    assert os.waitstatus_to_exitcode(os.waitpid(own, 0)[1]) == 3
    engine.ctx_free()


def test_a_stolen_child_fails_its_operation_only(engine: LibxlEngine, host: RemoteHost) -> None:
    engine.childproc_setmode(hooks(SigchldOwner.MAINLOOP))
    domid = host.create_domain()
    engine.domain_destroy(domid, AsyncHow())
    (pid,) = engine._ctx.children._pids
    os.waitpid(pid, 0)
    with pytest.raises(Disaster, match="ECHILD") as raised:
        engine.childproc_sigchld_occurred()
    assert raised.value.errnoval == errno.ECHILD
    assert engine.dead is None
    assert drained(engine) == [OperationComplete(domid, -3)]


@pytest.mark.parametrize("mode", [SigchldOwner.LIBXL_ALWAYS])
def test_foreign_children_that_libxl_reaps_are_offered_to_the_application(
    engine: LibxlEngine, host: RemoteHost, mode: SigchldOwner, caplog: pytest.LogCaptureFixture
) -> None:
    reaped: list[tuple[int, int]] = []
    mine = True

    def reaped_callback(pid: int, status: int) -> bool:
        engine.event_check()
        reaped.append((pid, os.waitstatus_to_exitcode(status)))
        return mine

    engine.childproc_setmode(hooks(mode, None, reaped_callback))
    pid = exit_at_once(5)
    while not reaped:
        pump(engine)
    assert reaped == [(pid, 5)]
    assert "unknown child" not in caplog.text
    mine = False
    pid = exit_at_once(6)
    while len(reaped) < 2:
        pump(engine)
    assert reaped[1] == (pid, 6)
    assert f"unknown child [{pid}]" in caplog.text


@pytest.mark.parametrize("hooked", [False, True])
def test_a_reaped_callback_that_raises_is_a_disaster(
    engine: LibxlEngine, host: RemoteHost, caplog: pytest.LogCaptureFixture, hooked: bool
) -> None:
    def reaped_callback(pid: int, status: int) -> bool:
        raise LookupError("whose?")

    told: list[Any] = []
    if hooked:
        engine.event_register_callbacks(Hooks(0, lambda *disaster: told.append(disaster)))
    engine.childproc_setmode(hooks(SigchldOwner.LIBXL_ALWAYS, None, reaped_callback))
    pid = exit_at_once()
    if hooked:
        while not told:
            pump(engine)
        assert told[0][0] == 0
        assert f"pid={pid}" in told[0][1]
    else:
        with pytest.raises(Disaster, match=f"pid={pid}") as raised:
            pump_for_ever(engine)
        assert isinstance(raised.value.__cause__, LookupError)
    assert "raised LookupError('whose?')" in caplog.text
    assert engine.dead is None


def test_children_are_reported_only_where_the_application_reaps(engine: LibxlEngine) -> None:
    for mode in OWN_SIGCHLD:
        engine.childproc_setmode(hooks(mode))
        with pytest.raises(MisuseError, match=f"in mode {mode.name} libxl reaps its children itself"):
            engine.childproc_reaped(1, 0)
        with pytest.raises(MisuseError, match=r"is for SigchldOwner\.MAINLOOP"):
            engine.childproc_sigchld_occurred()
    engine.childproc_setmode(hooks(SigchldOwner.MAINLOOP))
    assert not engine.childproc_reaped(1, 0)
    for pid, status in ((0, 0), (-1, 0), (2**31, 0), (1, -1)):
        with pytest.raises(ValueError, match="as from waitpid"):
            engine.childproc_reaped(pid, status)
    with pytest.raises(TypeError, match="pid must be an int"):
        engine.childproc_reaped("1", 0)  # type: ignore[arg-type]  # that it is refused is what is tested


@EVERY_MODE
def test_the_mode_stays_while_there_are_children(engine: LibxlEngine, host: RemoteHost, mode: SigchldOwner) -> None:
    engine.childproc_setmode(hooks(mode))
    domid = host.create_domain()
    engine.domain_destroy(domid, AsyncHow())
    pids = list(engine._ctx.children._pids)
    with pytest.raises(MisuseError, match="while libxl has children"):
        engine.childproc_setmode(None)
    finish(engine, pids)
    engine.childproc_setmode(None)


def test_modes_are_checked_before_anything_changes(engine: LibxlEngine) -> None:
    with pytest.raises(ValueError, match="5 is not a valid SigchldOwner"):
        engine.childproc_setmode(hooks(5))
    with pytest.raises(TypeError, match="fork_replacement must be callable"):
        engine.childproc_setmode(hooks(1, "fork"))
    assert engine._ctx.children.mode is SigchldOwner.LIBXL


def test_a_handler_of_the_applications_rules_out_all_modes_but_mainloop(
    engine: LibxlEngine, host: RemoteHost, handler: Callable[[int, object], None]
) -> None:
    domid = host.create_domain()
    for mode in OWN_SIGCHLD[1:]:
        with pytest.raises(MisuseError, match=r"application_handler.* has it: use SigchldOwner\.MAINLOOP"):
            engine.childproc_setmode(hooks(mode))
    for how in (None, AsyncHow()):
        with pytest.raises(MisuseError, match=r"in mode LIBXL libxl needs SIGCHLD .* use SigchldOwner\.MAINLOOP"):
            engine.domain_destroy(domid, how)
    engine.domain_pause(domid)  # which does not fork
    assert signal.getsignal(signal.SIGCHLD) is handler


def test_a_handler_that_comes_while_an_operation_is_under_way_is_noticed(engine: LibxlEngine, host: RemoteHost) -> None:
    domid = host.create_domain()
    engine.domain_destroy(domid, AsyncHow())
    libxls = ffi.new("struct sigaction *")
    libc.sigaction(signal.SIGCHLD, ffi.NULL, libxls)
    before = signal.signal(signal.SIGCHLD, lambda signum, frame: None)
    with pytest.raises(MisuseError, match="needs SIGCHLD for itself"):
        pump_for_ever(engine)
    signal.signal(signal.SIGCHLD, before)
    libc.sigaction(signal.SIGCHLD, libxls, ffi.NULL)
    os.kill(os.getpid(), signal.SIGCHLD)
    assert finish(engine, []) == [OperationComplete(domid, 0)]


def test_a_synchronous_operation_that_would_wait_for_its_child_for_ever_is_refused(
    engine: LibxlEngine, host: RemoteHost
) -> None:
    engine.childproc_setmode(hooks(SigchldOwner.MAINLOOP))
    domid = host.create_domain()
    with pytest.raises(MisuseError, match="would wait for ever for its child"):
        engine.domain_destroy(domid)
    engine.domain_pause(domid)


def test_several_engines_may_share_sigchld(open_engine: Callable[[], LibxlEngine], host: RemoteHost) -> None:
    engines = [open_engine(), open_engine()]
    for engine in engines:
        engine.childproc_setmode(hooks(SigchldOwner.LIBXL_ALWAYS_SELECTIVE_REAP))
    for engine in engines:
        domid = host.create_domain()
        engine.domain_destroy(domid, AsyncHow())
        assert finish(engine, []) == [OperationComplete(domid, 0)]


@pytest.mark.parametrize("modes", [(0, 0), (0, 1), (1, 0), (2, 0), (2, 1), (2, 3), (3, 2), (1, 2)])
def test_engines_that_would_take_one_anothers_children_do_not_fork_together(
    open_engine: Callable[[], LibxlEngine], host: RemoteHost, modes: tuple[int, int]
) -> None:
    first, second = open_engine(), open_engine()
    first.childproc_setmode(hooks(modes[0]))
    second.childproc_setmode(hooks(modes[1]))
    domid = host.create_domain()
    if modes[1] != SigchldOwner.LIBXL_ALWAYS:
        first.domain_destroy(domid, AsyncHow())
    with pytest.raises(MisuseError, match="several engines want MAINLOOP"):
        (first if modes[1] == SigchldOwner.LIBXL_ALWAYS else second).domain_destroy(domid, AsyncHow())
    if modes[1] != SigchldOwner.LIBXL_ALWAYS:
        assert finish(first, list(first._ctx.children._pids)) == [OperationComplete(domid, 0)]
    if SigchldOwner.LIBXL_ALWAYS not in modes:
        domid = host.create_domain()
        second.domain_destroy(domid, AsyncHow())
        assert finish(second, list(second._ctx.children._pids)) == [OperationComplete(domid, 0)]


UNDER_GEVENT = """
import gevent, gevent.monkey, os, signal, sys
if sys.argv[1] == "patched":
    gevent.monkey.patch_all()
gevent.get_hub().loop.install_sigchld()
watcher = gevent.get_hub().loop.child(12345)
watcher.start(print)
from gxl.engines.libxl import LibxlEngine
from gxl.errors import MisuseError
from gxl.interfaces import SigchldOwner
engine = LibxlEngine()
class Hooks:
    chldowner = SigchldOwner.LIBXL_ALWAYS
    fork_replacement = reaped_callback = None
try:
    engine.childproc_setmode(Hooks)
except MisuseError as error:
    print(error)
engine.ctx_free()
"""


@pytest.mark.parametrize("loop", ["libev-cext", "libev-cffi", "libuv"])
@pytest.mark.parametrize("patched", ["patched", "not patched"])
def test_gevents_loops_are_named_as_owners_of_sigchld(
    require: Requirements, host: RemoteHost, loop: str, patched: str
) -> None:
    require.module("gevent")
    done = subprocess.run(
        [sys.executable, "-c", UNDER_GEVENT, patched],
        env={**os.environ, "GEVENT_LOOP": loop},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    assert f"gevent/{loop.partition('-')[0]}/" in done.stdout
    assert "has it: use SigchldOwner.MAINLOOP" in done.stdout
