# SPDX-License-Identifier: LGPL-2.1-or-later
"""Creating, saving and restoring domains through a Context: in its process on the simulated host, else in another.

The embedded engine creates domains in this process. Told to have them built elsewhere, it gets a real building process
with a simulated host of its own, which shows all that passes between the two; real domains are for tests/realxen.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import gevent
import gevent.socket
import gevent.subprocess
import pytest
from worlds import World, outcome, settle, until

import gxl
from gxl import building
from gxl.building import Build
from gxl.engines.embedded import EmbeddedEngine
from gxl.errors import Aborted, Fail, Inval
from gxl.interfaces import AsyncHow
from gxl.simhost.remote import RemoteHost

UUID_OF_NEW = UUID("00000000-1111-2222-3333-444444444444")


def config(name: str = "new", **more: Any) -> dict[str, Any]:
    return {
        "c_info": {"type": "pv", "name": name, "uuid": str(UUID_OF_NEW)},
        "b_info": {"max_memkb": 65536, "target_memkb": 65536, "type.pv": {}},
        **more,
    }


def named(world: World, name: str) -> list[int]:
    return [
        info.domid
        for info in world.host.domains()
        if world.host.read(f"/local/domain/{info.domid}/name").decode() == name
    ]


@pytest.fixture
def embedded(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A simulated host in this process."""
    host = gxl.SimHost()
    world = World(host, lambda: EmbeddedEngine(host))
    yield world
    world.close()
    host.close()


@pytest.fixture
def apart(embedded: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """The same, but what is built is built by a process of its own (on a host of its own)."""
    monkeypatch.setattr(EmbeddedEngine, "builder", "embedded")
    return embedded


def only_build(ctx: gxl.Context) -> Build:
    (build,) = ctx._pump.builds
    return build


# In this process


def test_a_domain_is_created_paused_with_its_devices_and_a_console(embedded: World) -> None:
    ctx = embedded.open()
    disks = [{"vdev": "xvda", "pdev_path": "/image", "format": "raw"}]
    operation = ctx.domain_create(config(disks=disks), console=True, for_user=9)
    assert operation.domid is not None
    assert [domain.state for domain in ctx.list_domain() if domain.uuid == UUID_OF_NEW] == ["paused"]
    assert embedded.host.read(f"/libxl/{operation.domid}/device/vbd/51712/params") == b"/image"
    console, complete = ctx.event_wait(timeout=5), ctx.event_wait(timeout=5)
    assert isinstance(console, gxl.DomainCreateConsoleAvailable)
    assert isinstance(complete, gxl.OperationComplete)
    assert (console.domid, console.for_user) == (complete.domid, complete.for_user) == (operation.domid, 9)
    assert {(event.name, event.domuuid) for event in (console, complete)} == {("new", UUID_OF_NEW)}
    assert not ctx._pump.feeds.names.creating
    assert ctx.event_check() is None


@pytest.mark.parametrize("disks", [5, [1], "xvda", {"vdev": "xvda"}, [{"vdev": "xvda", "pdev_path": 5}]])
def test_a_domain_whose_devices_make_no_sense_is_not_there_afterwards(embedded: World, disks: Any) -> None:
    ctx = embedded.open()
    with pytest.raises(Fail):
        ctx.domain_create(config(disks=disks))
    assert named(embedded, "new") == []
    assert not ctx._pump.operations


def test_a_saved_domain_is_restored_with_what_it_was(embedded: World) -> None:
    ctx = embedded.open()
    domid = ctx.domain_create(config()).domid
    assert domid is not None
    ctx.domain_unpause(domid)
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    with ctx.expect(gxl.DomainShutdown, domid) as suspended:
        ctx.domain_suspend(domid, writer)
        event = suspended.wait(5)
    assert isinstance(event, gxl.DomainShutdown)
    assert event.shutdown_reason is gxl.ShutdownReason.SUSPEND
    ctx.domain_destroy(domid)
    os.write(writer, b"the next in the stream")
    text = json.dumps(config())
    again = ctx.domain_restore(reader, text).domid
    assert again not in (None, domid)
    (domain,) = [domain for domain in ctx.list_domain() if domain.domid == again]
    assert (domain.uuid, domain.current_memory_kb, domain.state) == (UUID_OF_NEW, 65536, "paused")
    assert os.read(reader, 100) == b"the next in the stream"
    assert not os.get_blocking(reader)
    assert not os.get_blocking(writer)
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize("memory", ["much", None, []])
def test_a_domain_whose_memory_makes_no_sense_is_an_error(embedded: World, memory: Any) -> None:
    wrong = config()
    wrong["b_info"]["max_memkb"] = memory
    with pytest.raises((Inval, Fail)):
        embedded.open().domain_create(wrong)
    assert named(embedded, "new") == []


def test_what_is_no_saved_domain_is_an_error(embedded: World) -> None:
    ctx = embedded.open()
    for content in (b"", b"garbage" * 10, b"gxl simulated domain        9\n{"):
        with tempfile.TemporaryFile() as file:
            file.write(content)
            file.flush()
            file.seek(0)
            with pytest.raises(Fail):
                ctx.domain_restore(file.fileno(), config())
    with pytest.raises(Fail, match="fd 99999"):
        ctx.domain_restore(99999, config())
    assert named(embedded, "new") == []


def test_a_save_that_nobody_reads_and_a_restore_without_data_can_be_aborted(
    embedded: World,
) -> None:
    # The child that does the work is a fork of this process; an abort is a SIGTERM.
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        abort_both(embedded)
    finally:
        signal.signal(signal.SIGTERM, before)


def abort_both(embedded: World) -> None:
    ctx = embedded.open()
    domid = embedded.host.create_domain()
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    while select.select([], [writer], [], 0)[1]:
        os.write(writer, b"x" * 4096)
    # Full: the child that writes blocks.
    saving = ctx.domain_suspend(domid, writer, wait=False)
    settle()
    assert not saving.done
    assert saving.abort()
    with pytest.raises(Aborted):
        saving.wait(5)
    os.close(reader)
    os.close(writer)
    reader, writer = os.pipe()
    restore = ctx.domain_restore(reader, config(), wait=False)
    waiter = gevent.spawn(restore.wait)
    settle()
    assert restore.abort()
    assert isinstance(outcome(waiter), Aborted)
    os.close(reader)
    os.close(writer)
    assert named(embedded, "new") == []


def test_a_xenstored_that_dies_ends_what_a_child_was_doing(embedded: World) -> None:
    engine = EmbeddedEngine(embedded.host)
    ended: list[int] = []
    disasters: list[str] = []
    engine.event_register_callbacks(
        SimpleNamespace(event_occurs_mask=0, event_occurs=None, disaster=lambda *what: disasters.append(what[1]))
    )
    engine.childproc_setmode(SimpleNamespace(chldowner=1, fork_replacement=None, reaped_callback=None))
    engine.evenable_domain_death(embedded.host.create_domain())
    reader, writer = os.pipe()
    engine.domain_create_restore(json.dumps(config()), reader, AsyncHow(callback=ended.append))
    embedded.host.drop_connections()
    fds, _ = engine.osevent_beforepoll()
    engine.osevent_afterpoll([(fd, events, events) for fd, events in fds])
    assert disasters
    assert ended == [Fail.code]
    engine.ctx_free()
    os.close(reader)
    os.close(writer)


def test_a_guest_that_does_not_suspend_itself_is_not_saved(embedded: World) -> None:
    ctx = embedded.open()
    domid = embedded.host.create_domain(paused=True)
    with tempfile.TemporaryFile() as file:
        with pytest.raises(gxl.WaitTimeout):
            ctx.domain_suspend(domid, file.fileno(), timeout=0.02)
        until(lambda: not ctx._pump.operations)
        assert os.fstat(file.fileno()).st_size == 0


def test_a_cd_is_put_in_and_taken_out(embedded: World) -> None:
    ctx = embedded.open()
    domid = embedded.host.create_domain(kind="hvm")
    embedded.host.add_disk(domid, "hdc")
    params = f"/local/domain/0/backend/qdisk/{domid}/5632/params"
    ctx.cdrom_insert(domid, "hdc", "/isos/a.iso")
    assert embedded.host.read(params) == b"raw:/isos/a.iso"
    ctx.cdrom_insert(domid, "hdc", None)
    assert embedded.host.read(params) == b""
    with pytest.raises(Fail):
        ctx.cdrom_insert(domid, "hdd", "/isos/a.iso")
    with pytest.raises(Inval):
        ctx.cdrom_insert(embedded.host.create_domain(), "xvda", "/isos/a.iso")


def test_what_an_eject_says_of_its_disk_is_refused(world: World) -> None:
    ctx = world.open()
    domid = world.host.create_domain(kind="hvm")
    world.host.add_disk(domid, "hdc")
    with ctx.evenable_disk_eject(domid, "hdc"):
        world.host.eject_disk(domid, "hdc")
        event = ctx.event_wait(timeout=5)
    assert isinstance(event, gxl.DiskEject)
    for disk in (event.disk, event):
        with pytest.raises(TypeError, match="comes from the guest"):
            ctx.cdrom_insert(domid, "hdc", disk)  # type: ignore[arg-type]  # that it is refused is what is tested


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ("{", ValueError, "not JSON"),
        ("[]", ValueError, "JSON object"),
        (b"{}", TypeError, "as a dict or as text"),
        ({"c_info": {}}, ValueError, "b_info"),
        ({"c_info": {"uuid": "nonsense"}, "b_info": {}}, ValueError, r"c_info\.uuid .* 'nonsense'"),
        ({1: 2}, ValueError, "has 1"),
        (config(disks=[b"new"]), TypeError, "nothing but what JSON has: .* bytes"),
        (config(odd=float("nan")), ValueError, "nothing but what JSON has"),
        (json.dumps(config(odd=float("inf"))), ValueError, "nothing but what JSON has"),
        ('{"c_info": ' + 99999 * "[", ValueError, "not JSON: .*([Rr]ecursion|[Ss]tack)"),
    ],
)
def test_what_is_no_configuration_starts_nothing(
    world: World, wrong: Any, error: type[Exception], message: str
) -> None:
    ctx = world.open()
    with pytest.raises(error, match=message):
        ctx.domain_create(wrong)
    with pytest.raises(error, match=message):
        ctx.domain_restore(0, wrong)
    assert not ctx._pump.operations


def test_paths_formats_and_drives_are_checked_first(world: World) -> None:
    ctx = world.open()
    for arguments, error in (
        ((1, "hdc", "relative.iso"), ValueError),
        ((1, "hdc", "/a\0b"), ValueError),
        ((1, "hdc", "/a", "iso"), ValueError),
        ((1, "nonsense", "/a"), ValueError),
        ((1, "hdc", b"/a"), TypeError),
    ):
        with pytest.raises(error):
            ctx.cdrom_insert(*arguments)


# In a process of its own


def test_a_process_of_its_own_tells_progress_and_result_while_the_hub_runs(apart: World) -> None:
    ctx = apart.open()
    ticks: list[int] = []

    def tick() -> None:
        while True:
            ticks.append(1)
            gevent.sleep(0.001)

    ticker = gevent.spawn(tick)
    operation = ctx.domain_create(config(disks=[{"vdev": "xvda"}]), console=True, for_user=4)
    ticker.kill()
    assert operation.rc == 0
    assert operation.domid == 1
    console, complete = ctx.event_wait(timeout=5), ctx.event_wait(timeout=5)
    assert [type(console), type(complete)] == [gxl.DomainCreateConsoleAvailable, gxl.OperationComplete]
    assert (console.domid, console.for_user, complete.for_user) == (1, 4, 4)
    assert {(event.name, event.domuuid) for event in (console, complete)} == {("new", UUID_OF_NEW)}
    assert len(ticks) > 20
    assert named(apart, "new") == []
    assert not ctx._pump.builds


def test_its_errors_and_its_log_are_passed_on(apart: World, caplog: pytest.LogCaptureFixture) -> None:
    ctx = apart.open()
    wrong = config()
    wrong["c_info"]["type"] = "nonsense"
    with pytest.raises(Inval, match=r"domain_create\('new'\)"):
        ctx.domain_create(wrong)
    assert "a domain needs a type" in caplog.text
    assert not ctx._pump.operations


def test_the_real_libxl_is_asked_in_a_process_of_its_own(world: World, caplog: pytest.LogCaptureFixture) -> None:
    ctx = world.open()
    wrong = config()
    wrong["c_info"]["type"] = "nonsense"
    with pytest.raises((Fail, Inval)):
        ctx.domain_create(wrong)
    assert "domain_config" in caplog.text or "a domain needs a type" in caplog.text
    assert not ctx._pump.builds


def test_an_engine_that_belongs_to_a_context_builds_nothing_in_this_process(
    served_host: tuple[RemoteHost, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in served_host[1].items():
        monkeypatch.setenv(name, value)
    with gxl.Context("libxl", "gevent") as ctx:
        for how in (None, AsyncHow(for_event=1)):
            with pytest.raises(gxl.MisuseError, match=r"use Context\.domain_create"):
                ctx.engine.domain_create_new(json.dumps(config()), how)
            with pytest.raises(gxl.MisuseError, match=r"use Context\.domain_restore"):
                ctx.engine.domain_create_restore(json.dumps(config()), 0, how)


def test_operations_that_the_application_starts_itself_complete_as_events(embedded: World) -> None:
    ctx = embedded.open()
    new = ctx.engine.domain_create_new(json.dumps(config()), AsyncHow(for_event=2**63), 5)
    console, complete = ctx.event_wait(timeout=5), ctx.event_wait(timeout=5)
    assert isinstance(console, gxl.DomainCreateConsoleAvailable)
    assert isinstance(complete, gxl.OperationComplete)
    assert (console.for_user, complete.for_user, complete.rc) == (5, 2**63, 0)
    assert new.domid == console.domid


def test_a_saved_domain_goes_to_that_process_and_it_takes_no_other_fd(apart: World) -> None:
    ctx = apart.open()
    reader, writer = os.pipe()
    stray, _ = strays = os.pipe()
    os.set_inheritable(stray, True)
    theirs = os.readlink(f"/proc/self/fd/{stray}")
    operation = ctx.domain_restore(reader, config(), wait=False)
    pid = only_build(ctx)._pid
    stream = os.readlink(f"/proc/self/fd/{reader}")

    def its_fds() -> list[str]:
        found = []
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                found.append(os.readlink(entry))
        return found

    until(lambda: its_fds().count(stream) == 1 and theirs not in its_fds(), 20)
    domid = apart.host.create_domain()
    ctx.domain_suspend(domid, writer)
    operation.wait(20)
    assert operation.domid == 1
    for fd in (reader, writer, *strays):
        os.close(fd)


def test_it_aborts_when_it_is_asked_to_and_when_nobody_is_there_any_more(apart: World) -> None:
    ctx = apart.open()
    reader, writer = os.pipe()
    with pytest.raises(gxl.WaitTimeout):
        ctx.domain_restore(reader, config(), timeout=0.3, for_user=8)
    complete = ctx.event_wait(timeout=20)
    assert isinstance(complete, gxl.OperationComplete)
    assert (complete.rc, complete.for_user) == (Aborted.code, 8)

    operation = ctx.domain_restore(reader, config(), wait=False)
    assert operation.abort()
    assert not operation.abort()
    with pytest.raises(Aborted):
        operation.wait(20)

    killed = gevent.spawn(ctx.domain_restore, reader, config())
    settle()
    killed.kill()
    until(lambda: not ctx._pump.operations, 20)

    left = ctx.domain_restore(reader, config(), wait=False)
    build = only_build(ctx)
    pidfd = os.pidfd_open(build._pid)
    with pytest.warns(ResourceWarning, match="abandoned"):
        ctx.close(timeout=0)
    with pytest.raises(gxl.ContextClosed):
        left.wait()
    gevent.socket.wait_read(pidfd, timeout=20)
    for fd in (pidfd, reader, writer):
        os.close(fd)


def test_closing_waits_for_it(apart: World, leaves_nothing: None) -> None:
    ctx = apart.open()
    reader, writer = os.pipe()
    operation = ctx.domain_restore(reader, config(), wait=False)
    ctx.close()
    assert operation.rc == Aborted.code
    os.close(reader)
    os.close(writer)


def a_program(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Let this run in place of the process's own program."""
    monkeypatch.setattr(building, "_PROGRAM", text.replace("{", "{{").replace("}", "}}"))


@pytest.mark.parametrize(
    ("program", "how"),
    [
        ("import os; os.kill(os.getpid(), 9)", "was killed by signal 9"),
        ("import os; os._exit(7)", "exited with 7"),
        ("import os; os.close(4); os._exit(0)", "exited with 0"),
    ],
)
def test_one_that_dies_is_an_error(apart: World, monkeypatch: pytest.MonkeyPatch, program: str, how: str) -> None:
    ctx = apart.open()
    a_program(monkeypatch, program)
    # gevent's loop may have taken its exit status by then.
    with pytest.raises(Fail, match=f"{how}|ended"):
        ctx.domain_create(config())
    assert not ctx._pump.operations
    ctx.domain_pause(apart.host.create_domain())


@pytest.mark.parametrize("stuck", ["import time; time.sleep(600)", "import os; os.close(4); os.read(os.pipe()[0], 1)"])
def test_one_that_is_stuck_is_killed(apart: World, monkeypatch: pytest.MonkeyPatch, stuck: str) -> None:
    monkeypatch.setattr(building, "SILENCE_SECONDS", 0.3)
    ctx = apart.open()
    a_program(monkeypatch, stuck)
    with pytest.raises(Fail, match="stuck"):
        ctx.domain_create(config(), timeout=20)
    assert not ctx._pump.builds


def test_one_that_not_even_a_kill_ends_holds_up_nobody(apart: World, monkeypatch: pytest.MonkeyPatch) -> None:
    # As a process is that the kernel holds inside a hypercall.
    asked: list[int] = []
    monkeypatch.setattr(building, "SILENCE_SECONDS", 0.3)
    monkeypatch.setattr(signal, "pidfd_send_signal", lambda pidfd, number: asked.append(number))
    ctx = apart.open()
    a_program(monkeypatch, "import time; time.sleep(600)")
    operation = ctx.domain_create(config(), wait=False)
    pid = only_build(ctx)._pid
    with pytest.raises(Fail, match="can't be killed"):
        operation.wait(20)
    assert asked == [signal.SIGKILL]
    assert not ctx._pump.builds
    ctx.close(timeout=5)
    assert not ctx._pump.abandoned
    os.kill(pid, signal.SIGKILL)


def test_one_that_is_stopped_is_killed_and_one_that_waits_is_not(apart: World, monkeypatch: pytest.MonkeyPatch) -> None:
    quickly = "import sys; sys.path[:] = {path!r}; from gxl import builder; builder.BEAT_SECONDS = 0.05; builder.main()"
    monkeypatch.setattr(building, "_PROGRAM", quickly)
    ctx = apart.open()
    reader, writer = os.pipe()
    waits = ctx.domain_restore(reader, config(), wait=False)
    build = only_build(ctx)
    began = build._heard
    until(lambda: build._heard != began, 20)
    monkeypatch.setattr(building, "SILENCE_SECONDS", 0.5)
    gevent.sleep(1)
    build.timeout_due()  # it waits for its child, and says so
    assert not build._why
    os.kill(build._pid, signal.SIGSTOP)
    gevent.sleep(0.6)
    build.timeout_due()
    with pytest.raises(Fail, match="stuck"):
        waits.wait(20)
    os.close(reader)
    os.close(writer)


def test_what_one_that_died_has_left_is_destroyed_and_nothing_else(
    apart: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    ctx = apart.open()
    # Such as the one that was saved, and whose copy is being made.
    before = apart.host.create_domain("before", uuid=UUID_OF_NEW)
    a_program(monkeypatch, "import time; time.sleep(600)")
    operation = ctx.domain_create(config(), wait=False)
    left = apart.host.create_domain("half", uuid=UUID_OF_NEW)
    other = apart.host.create_domain()
    os.kill(only_build(ctx)._pid, signal.SIGKILL)
    with pytest.raises(Fail):
        operation.wait(20)
    domids = [info.domid for info in apart.host.domains()]
    assert left not in domids
    assert {before, other} <= set(domids)


def test_several_at_once_beside_the_applications_own_children(apart: World) -> None:
    ctx = apart.open()
    commands = [gevent.spawn(gevent.subprocess.call, ["sh", "-c", f"exit {number}"]) for number in range(30)]
    operations = [ctx.domain_create(config(f"new{number}"), wait=False) for number in range(4)]
    doomed = [ctx.domain_destroy(apart.host.create_domain(), wait=False) for _ in range(10)]
    assert len(gevent.wait([*operations, *doomed], timeout=60)) == 14
    assert [operation.rc for operation in (*operations, *doomed)] == [0] * 14
    assert [outcome(command) for command in commands] == list(range(30))


def test_without_another_python_it_is_refused(apart: World, monkeypatch: pytest.MonkeyPatch) -> None:
    ctx = apart.open()
    monkeypatch.setattr(sys, "executable", "")
    with pytest.raises(Fail, match=r"sys\.executable"):
        ctx.domain_create(config())
    monkeypatch.setattr(sys, "executable", "/nonexistent")
    with pytest.raises(Fail, match="can't be started"):
        ctx.domain_create(config())
    assert not ctx._pump.operations


WITHOUT_A_LOOP = """
import json, signal, sys, tempfile
from types import SimpleNamespace
from gxl.engines.embedded import EmbeddedEngine
from gxl.errors import Fail
from gxl.interfaces import SigchldOwner
engine = EmbeddedEngine()
mode = SigchldOwner[sys.argv[1]]
if sys.argv[2] == "unheard":
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
engine.childproc_setmode(SimpleNamespace(chldowner=mode, fork_replacement=None, reaped_callback=None))
config = {"c_info": {"type": "hvm", "name": "new"}, "b_info": {}, "disks": [{"vdev": "hdc", "is_cdrom": 1}]}
domid = engine.domain_create_new(json.dumps(config)).domid
engine.cdrom_insert(domid, "hdc", "/isos/a.iso")
engine.domain_unpause(domid)
with tempfile.TemporaryFile() as file:
    engine.domain_suspend(domid, file.fileno())
    try:
        engine.domain_create_restore(json.dumps(config), file.fileno())
    except Fail:
        print("at its end")
    engine.domain_destroy(domid)
    file.seek(0)
    print(engine.domain_create_restore(json.dumps(config), file.fileno()).domid)
engine.ctx_free()
"""


# A signal that comes just before poll(2) is not heard until that returns.
@pytest.mark.parametrize("sigchld", ["heard", "unheard"])
@pytest.mark.parametrize("mode", ["LIBXL", "LIBXL_ALWAYS", "LIBXL_ALWAYS_SELECTIVE_REAP"])
def test_without_a_loop_the_engine_waits_for_its_children_itself(mode: str, sigchld: str) -> None:
    done = gevent.subprocess.run(
        [sys.executable, "-c", WITHOUT_A_LOOP, mode, sigchld],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdout=gevent.subprocess.PIPE,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "at its end\n2\n")


class Yields(logging.Handler):
    """Lets other greenlets run, as one that writes to a socket or waits for a lock does."""

    def handle(self, record: logging.LogRecord) -> bool:
        gevent.sleep(0)
        return True


@pytest.fixture
def yielding_log() -> Iterator[None]:
    logger, handler = logging.getLogger("gxl"), Yields()
    logger.addHandler(handler)
    yield
    logger.removeHandler(handler)


def test_a_log_handler_that_blocks_does_not_cost_the_result(
    apart: World, monkeypatch: pytest.MonkeyPatch, yielding_log: None
) -> None:
    ctx = apart.open()
    lines = [{"log": logging.ERROR, "logger": "gxl.libxl", "text": "odd"}, {"end": 0, "domid": 77}]
    text = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    a_program(monkeypatch, f"import os; os.write(4, {text!r}); os._exit(0)")
    assert ctx.domain_create(config(), timeout=20).domid == 77


def test_a_log_handler_that_blocks_does_not_hide_that_what_was_left_can_not_be_destroyed(
    apart: World, monkeypatch: pytest.MonkeyPatch, yielding_log: None
) -> None:
    ctx = apart.open()
    a_program(monkeypatch, "import time; time.sleep(600)")
    operation = ctx.domain_create(config(), wait=False)
    apart.host.create_domain("half", uuid=UUID_OF_NEW)
    apart.host.fail_next("destroydomain", 16)
    os.kill(only_build(ctx)._pid, signal.SIGKILL)
    # gevent's loop may have taken its exit status by then.
    with pytest.raises(Fail, match=r"killed by signal 9|ended"):
        operation.wait(20)


def test_what_an_application_has_in_its_path_that_is_no_text_does_no_harm(
    apart: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    ctx = apart.open()
    monkeypatch.setattr(sys, "path", [*sys.path, Path("/nonexistent")])
    assert ctx.domain_create(config(), timeout=20).rc == 0


def test_one_that_can_not_go_on_says_why_and_leaves_nothing(apart: World, monkeypatch: pytest.MonkeyPatch) -> None:
    ctx = apart.open()
    program = """
import sys; sys.path[:] = {path!r}
from gxl import builder, errors
def fail(self, engine):
    self._channel.socket.recv(1)
    raise errors.Disaster(0, "the store is gone", 5)
builder._Builder._turn = fail
builder.main()
"""
    monkeypatch.setattr(building, "_PROGRAM", program)
    reader, writer = os.pipe()
    operation = ctx.domain_restore(reader, config(), wait=False)
    left = apart.host.create_domain("half", uuid=UUID_OF_NEW)
    operation.abort()
    with pytest.raises(Fail, match="the store is gone"):
        operation.wait(20)
    assert left not in [info.domid for info in apart.host.domains()]
    os.close(reader)
    os.close(writer)


def test_a_domain_that_is_built_for_nobody_is_destroyed(
    apart: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    witness = tmp_path / "destroyed"
    program = f"""
import sys, os; sys.path[:] = {{path!r}}
from pathlib import Path
from gxl import builder
from gxl.engines.embedded import EmbeddedEngine
create = EmbeddedEngine.domain_create_new
def after_its_end(*arguments):
    builder.select.select([4], [], [])
    return create(*arguments)
EmbeddedEngine.domain_create_new = after_its_end
EmbeddedEngine.domain_destroy = lambda self, domid: Path({str(witness)!r}).write_text(str(domid))
builder.main()
"""
    monkeypatch.setattr(building, "_PROGRAM", program)
    ctx = apart.open()
    ctx.domain_create(config(), wait=False)
    pidfd = os.pidfd_open(only_build(ctx)._pid)
    with pytest.warns(ResourceWarning, match="abandoned"):
        ctx.close(timeout=0)
    gevent.socket.wait_read(pidfd, timeout=20)
    os.close(pidfd)
    assert witness.read_text() == "1"


def test_the_fd_is_given_back_as_it_was_when_the_process_dies(apart: World, leaves_nothing: None) -> None:
    ctx = apart.open()
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    operation = ctx.domain_restore(reader, config(), wait=False)
    until(lambda: os.get_blocking(reader), 20)
    os.kill(only_build(ctx)._pid, signal.SIGKILL)
    with pytest.raises(Fail):
        operation.wait(20)
    assert not os.get_blocking(reader)
    with pytest.raises(Fail, match="fd 99999 can't be used"):
        ctx.domain_restore(99999, config())
    ctx.close()
    os.close(reader)
    os.close(writer)


def test_one_that_was_given_up_does_not_take_its_successors_domain_along(
    apart: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    ctx = apart.open()
    a_program(monkeypatch, "import time; time.sleep(600)")
    given_up = ctx.domain_create(config(), wait=False)
    stuck = only_build(ctx)
    domid = apart.host.create_domain("new", uuid=UUID_OF_NEW)
    text = json.dumps({"end": 0, "domid": domid}).encode() + b"\n"
    a_program(monkeypatch, f"import os; os.write(4, {text!r}); os._exit(0)")
    assert ctx.domain_create(config(), timeout=20).domid == domid
    os.kill(stuck._pid, signal.SIGKILL)
    with pytest.raises(Fail):
        given_up.wait(20)
    assert domid in [info.domid for info in apart.host.domains()]
