# SPDX-License-Identifier: LGPL-2.1-or-later
"""What docs/watching.md and docs/json.md show works."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gevent
import pytest
from worlds import outcome, settle

import gxl
from gxl.engines.embedded import EmbeddedEngine

DOCS = Path(__file__).parent.parent / "docs"


def blocks(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", (DOCS / page).read_text(), re.DOTALL | re.MULTILINE)


def run(block: str, host: gxl.SimHost) -> None:
    how: dict[str, Any] = {"engine": lambda: EmbeddedEngine(host), "hub": "gevent"}
    names = vars(gxl) | {
        "gxl": SimpleNamespace(watch=partial(gxl.watch, **how)),
        "Context": partial(gxl.Context, **how),
    }
    exec(compile(block, "docs", "exec"), names)


def nothing(host: gxl.SimHost, domid: int) -> None:
    pass


def crash(host: gxl.SimHost, domid: int) -> None:
    host.shutdown_domain(domid, 3)


def crash_and_destroy(host: gxl.SimHost, domid: int) -> None:
    crash(host, domid)
    gevent.sleep(0.01)
    host.destroy_domain(domid)


SHOWN: list[tuple[Callable[[gxl.SimHost, int], None], str]] = [
    (crash_and_destroy, r"web1 \(domain 1\) crashed\nweb1 is gone\n"),
    (crash, r"web1 was the first to shut down\n"),
    (nothing, r""),
    (nothing, r"web1 is dead\n"),
    (crash, r"DomainShutdown\n"),
]


@pytest.mark.parametrize("number", range(len(SHOWN)))
def test_what_is_shown_of_watching_works(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    shown = blocks("watching.md")
    assert len(shown) == len(SHOWN)
    happens, printed = SHOWN[number]
    with gxl.SimHost() as host:
        domid = host.create_domain("web1")
        reader = gevent.spawn(run, shown[number], host)
        settle(50)
        happens(host, domid)
        assert outcome(reader) is None
    assert re.fullmatch(printed, capsys.readouterr().out)


def test_what_is_shown_of_json_works(capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = blocks("json.md")
    exec(compile(block, "docs", "exec"), dict(vars(gxl)))
    assert gxl.from_json(capsys.readouterr().out).name == "web1"


def test_every_key_and_type_is_documented() -> None:
    page = (DOCS / "json.md").read_text()
    kinds: dict[str, gxl.Event] = {
        "domain_shutdown": gxl.DomainShutdown(7, 0),
        "domain_death": gxl.DomainDeath(7),
        "disk_eject": gxl.DiskEject(7, None, gxl.events.Disk()),
        "operation_complete": gxl.OperationComplete(7, 0),
        "domain_create_console_available": gxl.DomainCreateConsoleAvailable(7),
        "resynced": gxl.Resynced(0, "", 0.0),
        "events_lost": gxl.EventsLost(0, 1),
    }
    assert set(kinds) == {kind.name.lower() for kind in gxl.EventType}
    for kind, event in kinds.items():
        row = next(line for line in page.splitlines() if line.startswith(f"| `{kind}` |"))
        content = event.as_dict()
        common = {"seq", "time", "type", "domid", "uuid", "name", "for_user"}
        assert set(re.findall(r"`(\w+)`:", row)) == content.keys() - common
        assert all(f"| `{key}` |" in page for key in common)
    assert all(f"`{key}`" in page for key in kinds["disk_eject"].as_dict()["disk"])
    for values in (gxl.ShutdownReason, gxl.events.DiskBackend, gxl.events.DiskFormat):
        assert all(f'`"{value.name.lower()}"`' in page for value in values)
