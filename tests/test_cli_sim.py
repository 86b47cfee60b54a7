# SPDX-License-Identifier: LGPL-2.1-or-later
"""`gxl sim` and `gxl simctl`, as a user types them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
from requirements import Requirements

GXL = [sys.executable, "-m", "gxl"]


@pytest.fixture(autouse=True)
def _needs(require: Requirements) -> None:
    require.program(os.environ.get("CC") or "cc")


def gxl(*arguments: str, **how: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*GXL, *arguments], capture_output=True, text=True, timeout=60, **how)  # type: ignore[call-overload,no-any-return]  # what `how` holds, mypy can't know


def in_sim(script: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run a shell script, in which `gxl` is the command, on a host of its own."""
    command = f"gxl() {{ '{sys.executable}' -m gxl \"$@\"; }}; {script}"
    return gxl("sim", *options, "--", "sh", "-c", command)


def test_the_command_sees_the_host_and_its_exit_status_is_gxls() -> None:
    run = in_sim("gxl simctl list; exit 7", "--domains", "2")
    assert run.returncode == 7, run.stderr
    assert [line.split() for line in run.stdout.splitlines()] == [
        ["0", "Domain-0", "running"],
        ["1", "sim1", "running"],
        ["2", "sim2", "running"],
    ]


def test_domains_are_created_shut_down_paused_and_destroyed() -> None:
    run = in_sim(
        """set -e
        gxl simctl create web
        gxl simctl create db --paused
        gxl simctl unpause db; gxl simctl pause web; gxl simctl unpause 1
        gxl simctl shutdown web crash; gxl simctl shutdown db 77
        gxl simctl list
        gxl simctl destroy web
        gxl simctl list | wc -l"""
    )
    assert run.returncode == 0, run.stderr
    assert "web                       shutdown (crash)" in run.stdout
    assert "db                        shutdown (77)" in run.stdout
    assert run.stdout.split()[-1] == "2"


def test_xl_lists_the_simulated_domains(require: Requirements) -> None:
    require.program("xl")
    run = in_sim("PATH=$PATH:/usr/sbin xl list", "--domains", "1")
    assert run.returncode == 0, run.stderr
    assert "sim1" in run.stdout


def test_the_real_libxl_reports_what_simctl_does(require: Requirements) -> None:
    require.library("xenlight")
    run = in_sim(
        """gxl simctl create web --cdrom hdc >/dev/null
        gxl watch web --json --timeout 30 & watcher=$!
        gxl simctl eject web hdc
        gxl simctl shutdown web reboot
        gxl simctl destroy web
        wait $watcher"""
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert '"type": "domain_death"' in run.stdout


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("gxl simctl destroy nobody", "no domain is called 'nobody'"),
        ("gxl simctl destroy 99", "99"),
        ("gxl simctl destroy 0", "0"),
        ("gxl simctl shutdown sim1 tiredness", "tiredness"),
        ("gxl simctl shutdown sim1 256", "256"),
        ("gxl simctl eject sim1 hdc", "hdc"),
        ("gxl simctl eject sim1 floppy", "floppy"),
        ("gxl simctl create ''", ""),
    ],
)
def test_what_can_not_be_done_is_said_without_a_traceback(script: str, said: str) -> None:
    run = in_sim(script, "--domains", "1")
    assert "Traceback" not in run.stderr
    if said:
        assert run.returncode == 1
        assert said in run.stderr


def test_without_a_host_simctl_says_how_to_get_one() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "XENSTORED_RUNDIR"}
    run = gxl("simctl", "list", env=environment)
    assert run.returncode == 1
    assert "gxl sim" in run.stderr


@pytest.mark.parametrize(("command", "status"), [("no-such-command", 127), ("/etc/passwd", 126), ("", 126)])
def test_a_command_that_can_not_be_run_is_named(command: str, status: int) -> None:
    run = gxl("sim", "--", command)
    assert run.returncode == status
    assert repr(command) in run.stderr


def test_options_of_the_command_are_its_own_and_unknown_ones_before_it_are_refused() -> None:
    run = gxl("sim", "ls", "-d", "/", "--color=never")
    assert (run.returncode, run.stdout) == (0, "/\n")
    run = gxl("sim", "--domain", "2", "--", "true")
    assert run.returncode == 2
    assert "--domain" in run.stderr


def test_a_create_that_fails_creates_nothing() -> None:
    run = in_sim(
        f"""gxl simctl create a --cdrom floppy; gxl simctl create sim1
        gxl simctl create {"x" * 5000}; gxl simctl create "$(printf '\\377')"
        gxl simctl list | wc -l""",
        "--domains",
        "1",
    )
    assert "floppy" in run.stderr
    assert "sim1" in run.stderr
    assert "Traceback" not in run.stderr
    assert run.stdout.strip() == "2"


def test_a_name_does_not_drive_the_terminal() -> None:
    run = in_sim("""gxl simctl create "$(printf 'a\\033[31m\\nb')" > /dev/null; gxl simctl list""")
    assert r"a\x1b[31m\nb" in run.stdout


def test_errors_are_injected_and_shutdowns_taken_back(require: Requirements) -> None:
    require.program("xenstore-read")
    run = in_sim(
        """gxl simctl fail READ EACCES
        xenstore-read /local/domain/1/name 2>/dev/null || echo refused
        xenstore-read /local/domain/1/name
        gxl simctl shutdown 1 suspend; gxl simctl resume 1
        gxl simctl list
        gxl simctl fail nosuchcall EIO; gxl simctl fail READ 5; gxl simctl fail READ __doc__""",
        "--domains",
        "1",
    )
    assert run.stdout.split()[:2] == ["refused", "sim1"]
    assert run.stdout.split()[-1] == "running"
    assert all(said in run.stderr for said in ("'nosuchcall'", "'5'", "'__doc__'"))
    assert "Traceback" not in run.stderr


def test_a_host_that_has_ended_is_called_so() -> None:
    run = gxl("simctl", "list", env=os.environ | {"XENSTORED_RUNDIR": "/nonexistent"})
    assert run.returncode == 1
    assert "it has ended" in run.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_without_a_command_it_serves_until_it_is_interrupted(number: signal.Signals) -> None:
    with subprocess.Popen([*GXL, "sim"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(4)]
        assert lines[0].startswith("export XENSTORED_RUNDIR=")
        directory = lines[0].split("=", 1)[1].strip()
        listing = gxl("simctl", "list", env=os.environ | {"XENSTORED_RUNDIR": directory})
        assert "Domain-0" in listing.stdout
        process.send_signal(number)
        assert process.wait(10) == 0
    assert not os.path.exists(directory)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_what_ends_sim_ends_its_command_first(number: signal.Signals) -> None:
    script = f"trap 'echo $XENSTORED_RUNDIR; exit 9' {number.name[3:]}; echo up; while :; do sleep 0.05; done"
    with subprocess.Popen([*GXL, "sim", "--", "bash", "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        process.send_signal(number)
        assert process.wait(10) == 9
        assert not os.path.exists(process.stdout.readline().strip())


def test_a_full_disk_is_said_without_a_traceback(require: Requirements) -> None:
    require.library("xenlight")
    run = in_sim("gxl simctl shutdown sim1 crash; gxl watch sim1 --count 1 --timeout 20 >/dev/full", "--domains", "1")
    assert run.returncode == 1
    assert "Traceback" not in run.stderr
    assert "No space left" in run.stderr


def test_what_the_user_preloads_stays_preloaded(require: Requirements) -> None:
    libc = require.library("c")
    run = gxl("sim", "--", "sh", "-c", "echo $LD_PRELOAD", env=os.environ | {"LD_PRELOAD": libc})
    assert run.returncode == 0, run.stderr
    first, second = run.stdout.strip().split(":")
    assert "preload" in first
    assert second == libc
