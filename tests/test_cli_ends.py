# SPDX-License-Identifier: LGPL-2.1-or-later
"""How the command line ends: at a terminal, in a pipe, by a signal."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import click
import pytest
from click.testing import CliRunner
from programs import ROOT, ended, program, program_with
from worlds import until

from gxl import Context, SimHost, cli
from gxl.cli.session import Session
from gxl.cli.signals import Asked
from gxl.engines.embedded import EmbeddedEngine
from gxl.recording import end_line, header
from gxl.simhost.remote import RemoteHost

Served = tuple[RemoteHost, dict[str, str]]
Watching = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def served(served_host: Served) -> Served:
    """The real libxenlight on an empty host."""
    host, variables = served_host
    host.reset()
    return host, variables | {"GXL_ENGINE": "libxl"}


class Terminal:
    """A program at a terminal of its own."""

    def __init__(self, process: subprocess.Popen[bytes], fd: int) -> None:
        self.process = process
        self._fd = fd
        self._seen = b""

    def until(self, wanted: bytes) -> bytes:
        """Whatever the terminal shows up to `wanted`."""
        while wanted not in self._seen:
            self._seen += os.read(self._fd, 4096)
        seen, _, self._seen = self._seen.partition(wanted)
        return seen + wanted

    def type(self, keys: bytes) -> None:
        os.write(self._fd, keys)

    def rest(self) -> bytes:
        """What it shows until the program lets go of it."""
        try:
            while data := os.read(self._fd, 4096):
                self._seen += data
        except OSError:  # EIO: nobody has it open any more
            pass
        return self._seen


@contextmanager
def terminal(*arguments: str, **variables: str) -> Iterator[Terminal]:
    ours, theirs = pty.openpty()

    def take_terminal() -> None:
        os.setsid()
        os.close(os.open(os.ttyname(0), os.O_RDWR))  # the first that a session's leader opens becomes its own

    process = subprocess.Popen(
        [sys.executable, "-m", "gxl", *arguments],
        cwd=ROOT,
        env={**os.environ, "TERM": "xterm", **variables},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        preexec_fn=take_terminal,
    )
    os.close(theirs)
    try:
        yield Terminal(process, ours)
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def test_at_a_terminal_events_have_colours_and_ctrl_c_ends_it_with_130(served: Served) -> None:
    host, variables = served
    with terminal("watch", **variables) as screen:
        screen.until(b"gxl: watching all domains")
        screen.until(b"\n")
        domid = host.create_domain("web1")
        host.shutdown_domain(domid, 3)
        line = screen.until(b"crash")
        assert b"\x1b[31mdomain_shutdown" in line
        screen.type(b"\x03")
        assert screen.process.wait(30) == 130
        assert screen.rest().replace(b"^C", b"").strip() == b""


@pytest.mark.parametrize("variable", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_who_wants_no_colours_gets_none(served: Served, variable: dict[str, str]) -> None:
    host, variables = served
    host.shutdown_domain(host.create_domain("web1"))
    with terminal("watch", "--count", "1", **variables | variable) as screen:
        assert screen.process.wait(30) == 0
        shown = screen.rest()
    assert b"domain_shutdown" in shown
    assert b"\x1b" not in shown


def test_at_a_terminal_replay_shows_how_far_it_is_and_leaves_the_cursor(tmp_path: Path) -> None:
    file = tmp_path / "long.jsonl"
    file.write_text("\n".join([header("0", "x", ""), end_line(1000, "signal"), ""]))
    with terminal("replay", str(file), "--speed", "100") as screen:
        screen.until(b"[-----")
        screen.until(b"10%")
        screen.type(b"\x03")
        assert screen.process.wait(30) == 130
        assert screen.rest().rstrip().endswith(b"\x1b[?25h")


def test_at_a_terminal_record_shows_how_much_it_has(served: Served, tmp_path: Path) -> None:
    host, variables = served
    with terminal("record", str(tmp_path / "recording"), **variables) as screen:
        screen.until(b"Ctrl-C ends it")
        host.shutdown_domain(host.create_domain("web1"))
        screen.until(b"gxl: recorded 1 events of 1 domains")
        screen.type(b"\x03")
        assert screen.process.wait(30) == 130
        assert screen.rest().endswith(b"\r\x1b[Kgxl: recorded 1 events of 1 domains\r\n")


def test_watch_ends_as_soon_as_nobody_reads_and_not_at_the_next_event(watching: Watching) -> None:
    process = watching(GXL_ENGINE="embedded")
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait(30) == 141
    assert process.stderr is not None
    assert process.stderr.read() == ""


def unread(pipe: int) -> int:
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_watch_though_nobody_reads_what_it_prints(
    served: Served, watching: Watching, number: signal.Signals
) -> None:
    host, variables = served
    process = watching("--json", **variables)
    assert process.stdout is not None
    pipe = process.stdout.fileno()
    fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, 8192)
    # More than the pipe holds, so that watch is stuck in the midst of printing.
    for index in range(100):
        host.shutdown_domain(host.create_domain(f"web{index}"))
    until(lambda: unread(pipe) > 4096, 30)
    process.send_signal(number)
    assert process.wait(30) == 128 + number
    lines = process.stdout.readlines()
    assert 10 < len(lines) < 100
    assert all(line.startswith("{") and line.endswith("}\n") for line in lines)


def test_a_signal_that_does_not_interrupt_the_wait_ends_watch_all_the_same() -> None:
    # The kernel gives it to another thread here. One that comes just before poll(2) is no different, but rare.
    script = (
        "import signal, sys, threading\n"
        "def strike():\n"
        "    sys.stdin.read()\n"
        "    signal.pthread_kill(threading.get_ident(), signal.SIGINT)\n"
        "threading.Thread(target=strike, daemon=True).start()\n"
        "from gxl import cli\n"
        "cli.main(['--engine', 'embedded', 'watch'])\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stderr is not None
    assert process.stderr.readline().startswith("gxl: watching all domains")
    stat = Path(f"/proc/{process.pid}/stat")
    until(lambda: stat.read_text().rpartition(") ")[2][0] == "S", 30)  # it waits
    process.stdin.close()
    process.stdin = None
    assert ended(process) == (130, "", "")


@pytest.mark.parametrize(("error", "status"), [(Asked(signal.SIGPIPE), 141), (KeyboardInterrupt(), 130)])
def test_a_signal_that_comes_when_a_command_has_let_go_of_everything_ends_it_as_any(
    error: BaseException, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    @click.command()
    def late() -> None:
        raise error

    monkeypatch.setitem(cli.main.commands, "late", late)
    result = CliRunner().invoke(cli.main, ["late"])
    assert (result.exit_code, result.output) == (status, "")


def test_whom_nohup_has_made_deaf_to_sighup_stays_so(watching: Watching) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        process = watching(GXL_ENGINE="embedded")
    finally:
        signal.signal(signal.SIGHUP, before)
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 143


@pytest.mark.parametrize("arguments", [("--help",), ("list",), ("doctor",), ("watch", "--help")])
def test_a_full_disk_is_said_without_a_traceback_by_every_command(arguments: tuple[str, ...]) -> None:
    with open("/dev/full", "w") as full:
        status, _, err = ended(program_with({"stdout": full}, *arguments, GXL_ENGINE="embedded"))
    assert status == 1
    assert "No space left" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("arguments", [("watch",), ("wait", "0"), ("list",), ("doctor",)])
def test_a_closed_output_is_said_by_every_command_before_it_waits(arguments: tuple[str, ...]) -> None:
    process = program_with({"stdout": None, "preexec_fn": partial(os.close, 1)}, *arguments, GXL_ENGINE="embedded")
    status, _, err = ended(process)
    assert (status, err) == (1, "Error: standard output is closed, and nothing can be written to it: use >/dev/null\n")


def test_a_letter_that_the_terminal_lacks_is_escaped(served: Served) -> None:
    host, variables = served
    domid = host.create_domain("web1")
    host.write(f"/local/domain/{domid}/name", "wéb")
    status, out, err = ended(program("list", **variables, PYTHONIOENCODING="ascii", LC_ALL="C"))
    assert (status, err) == (0, "")
    assert r"w\xe9b" in out


def test_a_signal_at_any_step_of_the_start_ends_the_watch_and_leaves_the_engine_free_to_go() -> None:
    def struck(step: int) -> bool:
        """Whether there was such a step."""
        here, steps = Session(), 0

        def trace(frame: FrameType, event: str, argument: object) -> Any:
            nonlocal steps
            steps += event == "line"
            if steps == step:
                sys.settrace(None)
                here.handle(signal.SIGTERM, frame)
            return trace

        with SimHost() as host, Context(lambda: EmbeddedEngine(host), hub="gevent") as here.ctx:
            host.create_domain()
            # A timeout of 0: where no signal comes, there is nothing to wait for.
            events = here.events(None, timeout=0)
            sys.settrace(trace)
            try:
                assert list(events) == []
            except Asked:
                pass
            finally:
                sys.settrace(None)
            assert bool(here.number) is (steps >= step)
            here.ctx.close(timeout=5)
            assert here.ctx._pump.counters.abandoned == 0
        return steps >= step

    stride = 7
    assert struck(1)
    step = 1
    while struck(step):
        step += stride
    assert step > 300
