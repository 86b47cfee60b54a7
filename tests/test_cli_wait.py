# SPDX-License-Identifier: LGPL-2.1-or-later
"""`gxl wait` and `gxl list`, on each engine; and the durations that they take."""

from __future__ import annotations

import json
from uuid import UUID

import pytest
from click.testing import CliRunner
from commands import Run, when_watching
from worlds import World

import gxl
from gxl import cli
from gxl.cli.durations import seconds
from gxl.events import from_json


@pytest.mark.parametrize(("awaited", "status"), [("shutdown", 0), ("death", 124)])
def test_wait_tells_a_shutdown_from_a_death(world: World, run: Run, awaited: str, status: int) -> None:
    domid = world.host.create_domain("web1")
    when_watching(world, world.host.shutdown_domain, domid, 1)
    result = run("wait", "web1", "--for", awaited, "--timeout", "1s", "--json")
    assert result.exit_code == status
    assert result.stderr == f"gxl: waiting for the {awaited} of web1 (domain {domid})\n"
    if status == 0:
        event = from_json(result.stdout)
        assert isinstance(event, gxl.DomainShutdown)
        assert (event.name, event.shutdown_reason) == ("web1", gxl.ShutdownReason.REBOOT)
    else:
        assert result.stdout == ""


@pytest.mark.parametrize("awaited", ["shutdown", "death"])
def test_a_domain_that_is_destroyed_while_it_runs_ends_either_wait(world: World, run: Run, awaited: str) -> None:
    domid = world.host.create_domain("web1")
    when_watching(world, world.host.destroy_domain, domid)
    result = run("wait", domid, "--for", awaited)
    assert result.exit_code == 0
    assert "domain_death" in result.stdout


def test_what_has_happened_already_ends_the_wait_at_once(world: World, run: Run) -> None:
    uuid = UUID("12345678-9abc-def0-1234-56789abcdef0")
    world.host.shutdown_domain(world.host.create_domain("web1", uuid=uuid), 3)
    result = run("wait", str(uuid).upper())
    assert result.exit_code == 0
    assert "shutdown_reason=crash" in result.stdout


def test_wait_tells_by_its_status_that_there_is_no_such_domain_or_no_single_one(world: World, run: Run) -> None:
    first, second = (world.host.create_domain(name) for name in ("web1", "web2"))
    result = run("wait", "web9")
    assert result.exit_code == 3
    assert "'web9'" in result.stderr
    world.host.write(f"/local/domain/{second}/name", "web1")
    result = run("wait", "web1")
    assert result.exit_code == 3
    assert f"{first}, {second}" in result.stderr


def test_wait_outlives_a_restart_of_xenstored(world: World, run: Run) -> None:
    domid = world.host.create_domain("web1")

    def restart() -> None:
        world.host.drop_connections()
        world.host.destroy_domain(domid)

    when_watching(world, restart)
    assert run("wait", "web1", "--for", "death", "--timeout", "20s").exit_code == 0


def test_wait_tells_a_failure_from_both(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GXL_LIBXENLIGHT", "/nowhere/libxenlight.so.4.17")
    monkeypatch.setenv("GXL_ENGINE", "libxl")
    result = CliRunner().invoke(cli.main, ["wait", "web1", "--timeout", "10s"])
    assert result.exit_code == 1
    assert "/nowhere/libxenlight.so.4.17" in result.stderr


def test_waits_help_documents_its_statuses() -> None:
    told = CliRunner().invoke(cli.main, ["wait", "--help"]).stdout
    assert [line.split()[0] for line in told.split("Exit status:")[1].splitlines()[1:5]] == ["0", "124", "3", "1"]


def test_list_shows_every_domain_in_a_table(world: World, run: Run) -> None:
    for name, act in [("web1", None), ("a-much-longer-name", "pause"), ("crashed", "shutdown")]:
        domid = world.host.create_domain(name, memory_kb=512 * 1024)
        if act == "pause":
            world.host.pause_domain(domid)
        elif act:
            world.host.shutdown_domain(domid, 3)
    result = run("list")
    assert result.exit_code == 0
    head, dom0, *rows = result.stdout.splitlines()
    assert head.split() == ["DOMID", "NAME", "STATE", "MEMORY", "CPU", "UUID"]
    assert dom0.split()[:3] == ["0", "Domain-0", "running"]
    assert [" ".join(row.split()[1:-2]) for row in rows] == [
        "web1 running 512",
        "a-much-longer-name paused 512",
        "crashed shutdown (crash) 512",
    ]
    assert len({row.index(row.split()[-1]) for row in [head, *rows]}) == 1


def test_list_in_json_is_one_array_with_every_key_of_a_domain(world: World, run: Run) -> None:
    uuid = UUID("12345678-9abc-def0-1234-56789abcdef0")
    domid = world.host.create_domain("web1", uuid=uuid)
    world.host.shutdown_domain(domid, 77)
    _, told = json.loads(run("list", "--json").stdout)
    assert told.keys() == set(gxl.Domain._fields)
    assert (told["domid"], told["uuid"], told["name"]) == (domid, str(uuid), "web1")
    assert (told["state"], told["shutdown_reason"]) == ("shutdown", 77)


def test_a_name_can_not_forge_a_row_of_the_table(world: World, run: Run) -> None:
    domid = world.host.create_domain("web1")
    world.host.write(f"/local/domain/{domid}/name", "x\n    9  forged\x1b[2J")
    shown = run("list").stdout
    assert len(shown.splitlines()) == 3
    assert r"x\n    9  forged\x1b[2J" in shown


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        *(("0", 0), ("0.5", 0.5), ("30s", 30), ("5m", 300), ("1h30m", 5400), ("1h30m15s", 5415)),
        *(("2d", 172800), ("1.5h", 5400), ("250ms", 0.25), ("1m500ms", 60.5)),
    ],
)
def test_a_duration_is_what_people_write(text: str, wanted: float) -> None:
    assert seconds(text) == wanted


@pytest.mark.parametrize(
    "text", ["", "soon", "-1", "nan", "inf", "5 m", "m", "5x", "30m1h", "5m5m", "1e3", "5M", "٥", "1." + "s", "9" * 400]
)
def test_what_is_no_duration_is_named(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        seconds(text)
