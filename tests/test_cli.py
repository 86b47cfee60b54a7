# SPDX-License-Identifier: LGPL-2.1-or-later
"""The command line: in this process where a host has to be at hand, and as a program where the process matters."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import gevent
import pytest
from click.testing import CliRunner
from commands import Run, when_watching
from distributions import Install
from programs import ended, program
from requirements import Requirements
from worlds import World

import gxl
from gxl import cli
from gxl.events import from_json
from gxl.simhost.remote import RemoteHost

ROOT = Path(__file__).parent.parent


def test_watch_prints_a_line_per_event_of_domains_old_and_new(world: World, run: Run) -> None:
    old = world.host.create_domain("old")

    def live() -> None:
        world.host.shutdown_domain(old, 3)
        new = world.host.create_domain("new")
        world.host.shutdown_domain(new, 2)

    when_watching(world, live)
    result = run("watch", "--count", 2)
    assert result.exit_code == 0
    # Two connections to xenstored tell of them, in either order.
    first, second = sorted(result.stdout.splitlines(), key=lambda line: int(line.split()[3]))
    when = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d"
    assert re.fullmatch(when + rf"  domain_shutdown  +{old}  old  shutdown_reason=crash", first)
    assert re.fullmatch(when + rf"  domain_shutdown  +{old + 1}  (new|-)  shutdown_reason=suspend", second)
    assert result.stderr.startswith("gxl: watching all domains (engine: ")


def test_watch_prints_at_once_what_is_true_already(world: World, run: Run) -> None:
    domid = world.host.create_domain("web1")
    world.host.shutdown_domain(domid, 1)
    result = run("watch", "--json", "--count", 1)
    event = from_json(result.stdout)
    assert isinstance(event, gxl.DomainShutdown)
    assert (event.domid, event.name, event.shutdown_reason) == (domid, "web1", gxl.ShutdownReason.REBOOT)


@pytest.mark.parametrize("by", ["domid", "name", "uuid", "UUID"])
def test_watch_ends_when_the_domains_that_it_was_asked_for_are_gone(world: World, run: Run, by: str) -> None:
    uuid = UUID("12345678-9abc-def0-1234-56789abcdef0")
    web1 = world.host.create_domain("web1", uuid=uuid)
    web2 = world.host.create_domain("web2")
    other = world.host.create_domain("other")

    def die() -> None:
        world.host.destroy_domain(other)
        world.host.shutdown_domain(web1)
        world.host.destroy_domain(web2)
        world.host.destroy_domain(web1)

    when_watching(world, die)
    called = {"domid": str(web1), "name": "web1", "uuid": str(uuid), "UUID": str(uuid).upper()}[by]
    result = run("watch", called, "web2", "web2", "--json")
    assert result.exit_code == 0
    assert "watching 2 domains" in result.stderr
    events = [from_json(line) for line in result.stdout.splitlines()]
    assert other not in [event.domid for event in events]
    assert sorted(event.domid for event in events if isinstance(event, gxl.DomainDeath)) == [web1, web2]


def test_watch_names_a_domain_that_is_not_there_and_those_that_are(world: World, run: Run) -> None:
    domid = world.host.create_domain("web1")
    result = run("watch", "web1", "web9")
    assert result.exit_code == 3
    assert "'web9'" in result.stderr
    assert f"{domid} web1" in result.stderr
    assert not result.stdout


def test_watch_shows_only_the_types_asked_for(world: World, run: Run) -> None:
    domid = world.host.create_domain("web1")
    world.host.shutdown_domain(domid)
    when_watching(world, world.host.destroy_domain, domid)
    result = run("watch", "web1", "--type", "domain_death", "--json")
    assert [from_json(line).type for line in result.stdout.splitlines()] == [gxl.EventType.DOMAIN_DEATH]


def test_watch_tells_by_its_status_that_the_time_is_over(world: World, run: Run) -> None:
    assert run("watch", "--timeout", 0).exit_code == 124
    assert run("watch", "--timeout", 0.05).exit_code == 124


def test_the_hub_runs_on_while_watch_waits(world: World, run: Run) -> None:
    ticks: list[None] = []

    def tick() -> None:
        while True:
            ticks.append(None)
            gevent.sleep(0.01)

    ticker = gevent.spawn(tick)
    run("watch", "--timeout", 0.5)
    ticker.kill()
    assert len(ticks) > 10


@pytest.mark.parametrize(
    "name", ["two\nlines", "bell\a", "\x1b[2Jclear", "turned \u202earound", "nel\x85", "line\u2028separator"]
)
def test_a_domains_name_can_not_drive_the_terminal_nor_forge_a_line(world: World, run: Run, name: str) -> None:
    domid = world.host.create_domain("web1")
    world.host.write(f"/local/domain/{domid}/name", name)
    result = run("watch", "nobody")
    assert result.stderr.rstrip("\n").isprintable()
    when_watching(world, world.host.destroy_domain, domid)
    result = run("watch", domid)
    line = result.stdout.removesuffix("\n")
    assert line.isprintable()
    assert name.encode("unicode_escape").decode() in line


def test_watch_outlives_a_restart_of_xenstored_and_says_that_it_was_cut_off(world: World, run: Run) -> None:
    domid = world.host.create_domain("web1")

    def restart() -> None:
        world.host.drop_connections()
        world.host.shutdown_domain(domid, 3)

    when_watching(world, restart)
    result = run("watch", "web1", "--type", "domain_shutdown", "--count", 2)
    assert result.exit_code == 0
    first, second = result.stdout.splitlines()
    assert "resynced" in first
    assert "cut off from Xen" in first
    assert "shutdown_reason=crash" in second


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["watch", "--timeout", "-1"], "-1"),
        (["watch", "--timeout", "nan"], "nan"),
        (["watch", "--timeout", "soon"], "soon"),
        (["watch", "--count", "0"], "0"),
        (["watch", "--type", "disk_eject"], "disk_eject"),
        (["watch", "--colour"], "--colour"),
        (["watch-it"], "watch-it"),
        (["doctor", "web1"], "web1"),
    ],
)
def test_a_wrong_command_line_is_named_with_status_2(arguments: list[str], named: str) -> None:
    result = CliRunner().invoke(cli.main, arguments)
    assert result.exit_code == 2
    assert named in result.stderr


@pytest.mark.parametrize(
    ("hub", "loop"), [("gevent", "libev-cext"), ("gevent", "libev-cffi"), ("gevent", "libuv-cffi"), ("poll", "")]
)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_watch_without_a_word(
    watching: Callable[..., subprocess.Popen[str]], hub: str, loop: str, number: signal.Signals
) -> None:
    process = watching(GXL_ENGINE="embedded", GXL_HUB=hub, GEVENT_LOOP=loop)
    process.send_signal(number)
    assert ended(process) == (128 + number, "", "")


def test_each_line_comes_at_once_and_a_closed_pipe_ends_watch_quietly(
    served_host: tuple[RemoteHost, dict[str, str]], watching: Callable[..., subprocess.Popen[str]]
) -> None:
    host, variables = served_host
    host.reset()
    process = watching("--json", GXL_ENGINE="libxl", **variables)
    assert process.stdout is not None
    domid = host.create_domain("web1")
    host.shutdown_domain(domid)
    assert from_json(process.stdout.readline()).domid == domid
    process.stdout.close()
    host.destroy_domain(domid)
    assert process.stderr is not None
    assert process.stderr.read() == ""
    assert process.wait(30) == 141


def test_without_xen_watch_says_what_was_tried_and_what_to_do() -> None:
    status, out, err = ended(program("watch", GXL_ENGINE="libxl", GXL_LIBXENLIGHT="/nowhere/libxenlight.so.4.17"))
    assert (status, out) == (1, "")
    assert "/nowhere/libxenlight.so.4.17" in err
    assert "gxl doctor" in err
    assert "GXL_ENGINE=embedded" in err
    assert "Traceback" not in err


def test_doctor_names_what_is_in_force() -> None:
    status, out, err = ended(program("doctor", GXL_ENGINE="embedded", GXL_HUB="gevent", GEVENT_LOOP="libuv-cffi"))
    assert (status, err) == (0, "")
    assert "engine embedded is in force: $GXL_ENGINE names it" in out
    assert "engine libxl is not in force" in out
    assert "hub gevent is in force: $GXL_HUB names it" in out
    assert "gevent.libuv.loop, patched: nothing" in out
    assert out.endswith("a Context can be opened\n")


def test_doctor_in_json_says_the_same_to_programs() -> None:
    status, out, _ = ended(program("doctor", "--json", GXL_ENGINE="embedded", GXL_HUB="gevent"))
    report = json.loads(out)
    assert status == 0
    assert report["works"] is True
    assert {part["name"]: bool(part["chosen"]) for part in report["engines"]} == {"embedded": True, "libxl": False}
    assert [part["name"] for part in report["hubs"] if part["chosen"]] == ["gevent"]


def test_doctor_says_whether_the_compiled_part_is_in_use(require: Requirements) -> None:
    require.module("gxl._compiled")
    _, out, _ = ended(program("doctor", GXL_ENGINE="embedded"))
    assert re.match(r"gxl [^,]+ \(compiled\), Python", out)
    _, out, _ = ended(program("doctor", GXL_ENGINE="embedded", PURE_PYTHON="1"))
    assert re.match(r"gxl [^,]+ \(plain\), Python", out)


def test_doctor_names_the_library_that_it_found(served_host: tuple[RemoteHost, dict[str, str]]) -> None:
    _, variables = served_host
    status, out, _ = ended(program("doctor", GXL_ENGINE="libxl", **variables))
    assert status == 0
    assert re.search(r"libxenlight\.so\.4\.\d+", out)


def test_doctor_says_why_nothing_works() -> None:
    status, out, err = ended(program("doctor", GXL_ENGINE="libxl", GXL_LIBXENLIGHT="/nowhere/libxenlight.so.4.17"))
    assert (status, err) == (1, "")
    assert "/nowhere/libxenlight.so.4.17" in out
    assert "no Context can be opened" in out


@pytest.mark.parametrize(("variable", "kind"), [("GXL_ENGINE", "engine"), ("GXL_HUB", "hub")])
def test_doctor_says_that_a_chosen_part_does_not_exist(variable: str, kind: str) -> None:
    status, out, err = ended(program("doctor", **{"GXL_ENGINE": "embedded", variable: "nonesuch"}))
    assert (status, err) == (1, "")
    assert re.search(rf"no Context can be opened: .*{kind}.*'nonesuch'", out)


def test_what_a_plugin_says_of_itself_can_not_drive_the_terminal(install: Install, tmp_path: Path) -> None:
    (tmp_path / "loud_loop.py").write_text(
        "from tidal_loop import Hub, implementer, IHub\n"
        "@implementer(IHub)\n"
        "class Loud(Hub):\n"
        "    'Draws \\x1b[2J.'\n"
        "    version = '1\\x07\\nhub poll is in force'\n"
    )
    install("loud", "gxl.hubhooks", loud="loud_loop:Loud")
    status, out, err = ended(program("doctor", GXL_ENGINE="embedded", PYTHONPATH=os.pathsep.join(install.places)))
    assert (status, err) == (0, "")
    assert r"    Draws \x1b[2J." in out.splitlines()
    assert r"    1\x07\nhub poll is in force" in out.splitlines()


def test_what_others_say_in_an_error_can_not_drive_the_terminal(install: Install, tmp_path: Path) -> None:
    (tmp_path / "loud_loop.py").write_text("raise OSError('no loop \\x1b[2J, \\x9b2J')\n")
    install("loud", "gxl.hubhooks", loud="loud_loop:Loud")
    where = os.pathsep.join(install.places)
    status, out, err = ended(program("list", GXL_ENGINE="embedded", GXL_HUB="loud", PYTHONPATH=where))
    assert (status, out) == (1, "")
    assert r"no loop \x1b[2J, \x9b2J" in err
    assert all(line.isprintable() for line in err.splitlines())


def test_doctor_says_what_gevent_has_patched() -> None:
    command = [sys.executable, "-m", "gevent.monkey", "--module", "gxl", "doctor"]
    environment = {**os.environ, "GXL_ENGINE": "embedded"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search(r"patched: os, .*socket", done.stdout)
    assert "gevent has patched this process" in done.stdout


def test_the_command_and_the_module_are_the_same(require: Requirements) -> None:
    command = require.file(Path(sys.executable).with_name("gxl"))
    done = subprocess.run([command, "--version"], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == CliRunner().invoke(cli.main, ["--version"]).stdout


@pytest.mark.parametrize("group", [[], ["simctl"]])
def test_the_list_of_commands_breaks_no_sentence_off(group: list[str]) -> None:
    told = CliRunner().invoke(cli.main, [*group, "--help"], terminal_width=80).stdout
    commands = told.partition("Commands:\n")[2].splitlines()
    assert len(commands) > 5
    assert [line for line in commands if not line.endswith(".") or line.endswith("...")] == []
