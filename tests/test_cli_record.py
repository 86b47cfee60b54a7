# SPDX-License-Identifier: LGPL-2.1-or-later
"""`gxl record` on the real libxenlight, and `gxl replay` of what it wrote; and recordings that are broken."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from click.testing import CliRunner
from programs import ended, program, program_with
from worlds import until

from gxl import SimHost, cli
from gxl.events import DomainDeath, DomainShutdown, ShutdownReason, from_json
from gxl.recording import Player, parse
from gxl.simhost.remote import RemoteHost

Recording = Callable[..., subprocess.Popen[str]]
NAME = "sp oof\n\x1b[2J\N{SNOWMAN}"


@pytest.fixture
def recording() -> Iterator[Recording]:
    """Starts `gxl record FILE`, and waits until it records."""
    processes = []

    def recording(file: Path, **variables: str) -> subprocess.Popen[str]:
        processes.append(program("record", file, **variables))
        stderr = processes[-1].stderr
        assert stderr is not None
        assert stderr.readline() == "gxl: recording; Ctrl-C ends it\n"
        return processes[-1]

    yield recording
    for process in processes:
        process.kill()
        process.communicate()


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_was_recorded_is_seen_again_by_whoever_watches_the_replay(
    served_host: tuple[RemoteHost, dict[str, str]], recording: Recording, tmp_path: Path, number: signal.Signals
) -> None:
    host, variables = served_host
    host.reset()
    file = tmp_path / "incident.jsonl"
    old = host.create_domain(NAME)
    down = host.create_domain("down")
    host.shutdown_domain(down, 77)
    process = recording(file, **variables, GXL_ENGINE="libxl")
    quiet = host.create_domain("quiet")
    host.shutdown_domain(old, 3)
    until(lambda: file.read_text().count('"event"') == 2, 30)
    host.destroy_domain(old)
    until(lambda: file.read_text().count('"event"') == 3, 30)
    process.send_signal(number)
    status, _, err = ended(process)
    assert (status, err) == (128 + number, "gxl: recorded 3 events of 3 domains\n")

    head, *content, end = lines(file)
    assert head["gxl_recording"] == 1
    assert "libxl" in head["engine"]
    assert end["end"] == "signal"
    assert [line["at"] for line in content] == sorted(line["at"] for line in content)
    assert {(line["domain"]["domid"], line["domain"]["name"]) for line in content if "domain" in line} == {
        *((old, NAME), (down, "down"), (quiet, "quiet"))
    }
    recorded = [from_json(json.dumps(line["event"])) for line in content if "event" in line]

    status, out, err = ended(program("replay", file, "--speed", "inf", "--json"))
    assert status == 0, err
    assert err == "gxl: replaying 3 events, in 0.0 s\n"
    replayed = [from_json(line) for line in out.splitlines()]
    seen = [(e.type, e.domid, e.domuuid, e.name, getattr(e, "shutdown_reason", None)) for e in replayed]
    assert seen == [(e.type, e.domid, e.domuuid, e.name, getattr(e, "shutdown_reason", None)) for e in recorded]


HEADER = '{"gxl_recording": 1, "gxl": "0.1.0", "engine": "x", "start": "2026-01-01T00:00:00.000Z"}\n'
UUID_7 = str(UUID(int=7))


def domain(at: float, domid: int = 7, name: str | None = "web") -> str:
    return json.dumps({"at": at, "domain": {"domid": domid, "uuid": UUID_7, "name": name}}) + "\n"


def died(at: float, domid: int = 7) -> str:
    return json.dumps({"at": at, "event": DomainDeath(domid, domuuid=UUID(int=7)).as_dict()}) + "\n"


def shut_down(at: float, reason: int) -> str:
    return json.dumps({"at": at, "event": DomainShutdown(7, reason, domuuid=UUID(int=7)).as_dict()}) + "\n"


END = '{"at": 9.0, "end": "signal"}\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "the file is empty"),
        ("hello\n", "line 1: it is not JSON"),
        ('{"type": "domain_death"}\n', "line 1: it is not the header"),
        (HEADER.replace("1,", "2,", 1), "line 1: the recording's format is version 2"),
        (HEADER + domain(0) + died(1)[:-9], "line 3: it breaks off in the middle"),
        (HEADER + "[" * 100_000 + "\n", "line 2: it is not JSON"),
        (HEADER + domain(0) + "\x00\n", "line 3: it is not JSON"),
        (HEADER + "[]\n", "line 2: it is not a JSON object"),
        (HEADER + domain(5) + died(4), 'line 3: "at" must be'),
        (HEADER + domain(0).replace("0,", "NaN,", 1), 'line 2: "at" must be'),
        (HEADER + '{"at": 0, "party": 1}\n', "line 2: a line has a"),
        (HEADER + domain(0, domid=99999), "line 2: a domid is from"),
        (HEADER + domain(0).replace(UUID_7, "seven"), "line 2: a domain's uuid"),
        (HEADER + domain(0).replace('"web"', "7"), "line 2: a domain's name"),
        (HEADER + died(0, domid=0), "line 2: a guest's domid"),
        (HEADER + shut_down(0, 256), "line 2: a shutdown reason"),
        (HEADER + died(0).replace("domain_death", "domain_birth"), "domain_birth"),
        (HEADER + END + died(9), "line 3: something follows the end"),
    ],
)
def test_a_broken_recording_is_named_with_its_line_before_anything_happens(
    tmp_path: Path, text: str, said: str
) -> None:
    file = tmp_path / "broken.jsonl"
    file.write_text(text)
    result = CliRunner().invoke(cli.main, ["replay", str(file)])
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "broken.jsonl" in result.stderr
    assert said in result.stderr
    assert len(result.stderr) < 1000


def test_a_recording_that_was_cut_off_between_two_lines_is_replayed_and_said_to_be(tmp_path: Path) -> None:
    file = tmp_path / "cut.jsonl"
    file.write_text(HEADER + domain(0) + shut_down(0, 1))
    status, out, err = ended(program("replay", file))
    assert status == 0
    assert "shutdown_reason=reboot" in out
    assert err.endswith("it was cut off here\n")


def test_what_a_host_refuses_is_named(tmp_path: Path) -> None:
    file = tmp_path / "long.jsonl"
    file.write_text(HEADER + domain(0, name="x" * 10_000) + END)
    status, out, err = ended(program("replay", file))
    assert (status, out) == (1, "")
    assert "can't be repeated: name must have at most" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("told", [True, False])
def test_a_domain_that_appears_and_dies_at_the_same_moment_is_replayed(tmp_path: Path, told: bool) -> None:
    file = tmp_path / "short.jsonl"
    file.write_text(HEADER + (domain(0) if told else "") + died(0) + domain(0) + shut_down(0, 3) + died(0) + END)
    status, out, err = ended(program("replay", file, "--speed", "inf", "--json"))
    assert status == 0, err
    types = [json.loads(line)["type"] for line in out.splitlines()]
    assert types == ["domain_death", "domain_shutdown", "domain_death"]


def test_the_end_that_a_recording_leaves_out_is_taken_for_no_other(tmp_path: Path) -> None:
    file = tmp_path / "lost.jsonl"
    uuid = str(UUID(int=8))
    # The first life ends unrecorded, when the domid goes to the second: its death must not pass for the second's.
    first, second = domain(0) + shut_down(0, 1), (domain(0) + died(0)).replace(UUID_7, uuid)
    file.write_text(HEADER + first + second + domain(0) + died(0) + END)
    status, out, err = ended(program("replay", file, "--speed", "inf", "--json"))
    assert status == 0, err
    told = [(event["type"], event["uuid"]) for event in map(json.loads, out.splitlines())]
    assert told == [("domain_shutdown", UUID_7), *[("domain_death", one) for one in (UUID_7, uuid, UUID_7)]]


@pytest.mark.parametrize("speed", ["0", "-1", "nan", "fast"])
def test_a_speed_is_above_zero(tmp_path: Path, speed: str) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text(HEADER + END)
    result = CliRunner().invoke(cli.main, ["replay", str(file), "--speed", speed])
    assert result.exit_code == 2


def test_a_replay_takes_its_time_and_a_signal_ends_it(tmp_path: Path) -> None:
    file = tmp_path / "long.jsonl"
    file.write_text(HEADER + domain(0) + shut_down(0, 0) + died(1000) + END.replace("9.0", "1000.0"))
    process = program("replay", file, "--json")
    assert process.stdout is not None
    assert from_json(process.stdout.readline()).domid == 7
    process.send_signal(signal.SIGINT)
    status, out, _ = ended(process)
    assert (status, out) == (130, "")


def test_a_file_that_exists_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "precious"
    file.write_text("keep")
    status, _, err = ended(program("record", file, GXL_ENGINE="embedded"))
    assert status == 1
    assert "exists" in err
    assert file.read_text() == "keep"


def test_a_file_that_can_not_grow_holds_whole_lines_and_a_clear_error_says_so(
    served_host: tuple[RemoteHost, dict[str, str]], tmp_path: Path
) -> None:
    host, variables = served_host
    host.reset()
    for index in range(50):
        host.shutdown_domain(host.create_domain(f"web{index}"))
    file = tmp_path / "full.jsonl"

    def limit() -> None:
        # The kernel's word for a full disk differs (EFBIG); the path is the same.
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))

    # Python's own caches would be too large a file, too.
    variables = {**variables, "PYTHONDONTWRITEBYTECODE": "1", "GXL_ENGINE": "libxl"}
    status, _, err = ended(program_with({"preexec_fn": limit}, "record", file, **variables))
    assert status == 1
    assert "full.jsonl can't be written any more: File too large" in err
    assert "Traceback" not in err
    assert 4000 < file.stat().st_size <= 5000
    assert len(parse(file.read_bytes().splitlines(keepends=True))) > 10


def test_a_recording_can_be_played_on_a_host_of_ones_own() -> None:
    entries = parse((HEADER + domain(0) + shut_down(1, 3)).encode().splitlines(keepends=True))
    with SimHost() as host:
        player = Player(host)
        for entry in entries:
            player.play(entry)
        (info,) = [info for info in host.domains() if info.domid]
        assert (info.domid, info.uuid, info.shutdown_reason) == (7, UUID(int=7), ShutdownReason.CRASH)


def test_the_engine_can_be_named_for_any_command() -> None:
    status, out, _ = ended(program("--engine", "embedded", "list", "--json", GXL_ENGINE="libxl"))
    assert status == 0
    assert [domain["name"] for domain in json.loads(out)] == ["Domain-0"]
