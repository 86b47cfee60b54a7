# SPDX-License-Identifier: LGPL-2.1-or-later
"""`gxl watch --exec COMMAND`: real commands, on the hub that the command line uses and on the others."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from programs import ended, program
from worlds import until

from gxl.cli import runner
from gxl.cli.runner import Runner
from gxl.events import from_json
from gxl.simhost.remote import RemoteHost

Watching = Callable[..., subprocess.Popen[str]]


def died(domid: int, name: str = "web") -> tuple[dict[str, Any], str]:
    content = {"type": "domain_death", "domid": domid, "name": name}
    return content, json.dumps(content)


def children(pid: int) -> list[str]:
    """Its children, those that it has still to reap included. Each thread has its own."""
    found = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        found += path.read_text().split()
    return found


def alive(groups: list[str]) -> list[str]:
    """The processes of these process groups that run; not those that only their parent has still to reap."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, group, *_ = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        if group in groups and state != "Z":
            found.append(path.parent.name)
    return found


@pytest.mark.parametrize("hub", ["poll", "gevent"])
def test_a_command_gets_each_event_and_is_reaped_while_watch_goes_on(
    served_host: tuple[RemoteHost, dict[str, str]], watching: Watching, tmp_path: Path, hub: str
) -> None:
    host, variables = served_host
    host.reset()
    domid = host.create_domain("$(touch broken); \x1b[2J")
    got = tmp_path / "got"
    command = f"sh -c 'cat >> {shlex.quote(str(got))}'"
    process = watching("--json", "--exec", command, **variables, GXL_ENGINE="libxl", GXL_HUB=hub)
    assert process.stdout is not None
    host.shutdown_domain(domid, 3)
    shown = process.stdout.readline()
    until(lambda: got.exists() and got.read_text() == shown, 30)
    until(lambda: not children(process.pid), 30)
    host.destroy_domain(domid)
    shown += process.stdout.readline()
    until(lambda: got.read_text() == shown and not children(process.pid), 30)
    assert [from_json(line).name for line in shown.splitlines()] == ["$(touch broken); \x1b[2J"] * 2
    process.send_signal(signal.SIGTERM)
    assert ended(process) == (143, "", "")


def test_in_a_process_that_gevent_has_patched_commands_are_reaped_too(tmp_path: Path) -> None:
    script = (
        "from gevent import monkey; monkey.patch_all()\n"
        "from gxl.cli.runner import Runner\n"
        f"with Runner('sh -c \"cat >> {tmp_path}/got\"', print) as hook:\n"
        "    for domid in range(20):\n"
        "        hook.submit({'type': 'domain_death', 'domid': domid, 'name': None}, str(domid))\n"
        "assert not hook.failed\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert sorted(map(int, (tmp_path / "got").read_text().split())) == list(range(20))


def test_watch_prints_on_while_a_command_hangs_and_ctrl_c_ends_both(
    served_host: tuple[RemoteHost, dict[str, str]], watching: Watching, tmp_path: Path
) -> None:
    host, variables = served_host
    host.reset()
    pids = tmp_path / "pids"
    command = f"sh -c 'echo $$ >> {shlex.quote(str(pids))}; sleep 1000 & wait'"
    process = watching("--json", "--exec", command, **variables, GXL_ENGINE="libxl")
    assert process.stdout is not None
    for _ in range(3):
        domid = host.create_domain("web")
        host.shutdown_domain(domid)
        assert from_json(process.stdout.readline()).domid == domid
        host.destroy_domain(domid)
        assert from_json(process.stdout.readline()).domid == domid
    until(lambda: pids.exists() and len(pids.read_text().split()) == 3, 30)  # one for each domain at a time
    process.send_signal(signal.SIGINT)
    status, out, err = ended(process)
    assert (status, out) == (130, "")
    assert "3 events did not reach sh -c" in err
    assert err.count("SIGTERM") == 3
    until(lambda: not alive(pids.read_text().split()), 30)


def test_a_failing_command_is_reported_and_seen_in_the_status(served_host: tuple[RemoteHost, dict[str, str]]) -> None:
    host, variables = served_host
    host.reset()
    host.shutdown_domain(host.create_domain("we\nb"))
    watch = ("watch", "--count", "1", "--exec")
    status, _, err = ended(program(*watch, "sh -c 'exit 7'", **variables, GXL_ENGINE="libxl"))
    assert status == 1
    assert r"gxl: sh -c 'exit 7' ended with status 7 for domain_shutdown of domain 1 (we\nb)" in err
    status, _, err = ended(program(*watch, "true", **variables, GXL_ENGINE="libxl"))
    assert status == 0
    assert "true" not in err


@pytest.mark.parametrize(("command", "named"), [("/no/such/hook --now", "/no/such/hook"), ("", "''"), ("sh -c '", "'")])
def test_a_command_that_there_is_not_is_refused_before_anything_is_watched(command: str, named: str) -> None:
    status, out, err = ended(program("watch", "--exec", command, GXL_ENGINE="embedded"))
    assert (status, out) == (2, "")
    assert named in err
    assert "watching" not in err


def test_events_of_one_domain_are_in_order_and_those_of_others_do_not_wait_for_them(tmp_path: Path) -> None:
    log = tmp_path / "log"
    said: list[str] = []
    with Runner(f"sh -c 'cat >> {log}'", said.append) as hook:
        for number in range(60):
            hook.submit({"type": "domain_death", "domid": number % 3, "name": None}, json.dumps([number % 3, number]))
    told = [json.loads(line) for line in log.read_text().splitlines()]
    assert sorted(told, key=lambda entry: entry[1]) == [[number % 3, number] for number in range(60)]
    for domid in range(3):
        numbers = [number for other, number in told if other == domid]
        assert numbers == sorted(numbers)
    assert (hook.failed, said) == (0, [])


def test_a_storm_runs_no_more_than_a_few_commands_and_tells_of_what_it_drops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "WAITING", 20)
    log, gate = tmp_path / "log", tmp_path / "gate"
    said: list[str] = []
    command = f"sh -c 'cat >> {log}; until [ -e {gate} ]; do sleep 0.1; done'"
    threads = threading.active_count()
    with Runner(command, said.append) as hook:
        for domid in range(1, 101):
            hook.submit(*died(domid))
        until(lambda: log.exists() and len(log.read_text().splitlines()) == runner.PARALLEL, 30)
        assert threading.active_count() - threads == len(hook._running) == runner.PARALLEL
        gate.touch()
    told = [json.loads(line) for line in log.read_text().splitlines()]
    lost = [event for event in told if event["type"] == "events_lost"]
    assert lost
    assert sum(event["count"] for event in lost) == 100 - (len(told) - len(lost))
    assert said[0].startswith("sh -c")
    assert f"{lost[0]['count']} events did not reach" in said[1]


def test_the_help_tells_the_figures_that_hold() -> None:
    _, told, _ = ended(program("watch", "--help"))
    assert f"up to {runner.PARALLEL} times at once" in " ".join(told.split())
    assert f"If {runner.WAITING} events wait" in " ".join(told.split())
