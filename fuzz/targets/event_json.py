# SPDX-License-Identifier: LGPL-2.1-or-later
"""Events as JSON, read back from wherever they were kept: what was not written by gxl is a ValueError that says so."""

from __future__ import annotations

import json
from typing import Any

from fuzz.choices import Choices
from gxl.events import from_json

_FIELDS = (
    *("type", "uuid", "time", "domid", "for_user", "seq", "name", "shutdown_reason", "vdev", "disk", "rc", "reason"),
    *("count", "backend_domid", "backend", "format", "removable"),
)
_VALUES: tuple[Any, ...] = (
    *(
        None,
        True,
        0,
        1,
        -1,
        1.5,
        2**70,
        float("nan"),
        "",
        "web\n\x1b[2J",
        "\udc80",
        [],
        {},
        [[]],
        "poweroff",
        "POWEROFF",
    ),
    *("2026-11-26T08:00:00.25Z", "2026-11-26T08:00:00Z", "9999-12-31T23:59:59.9Z", "0001-01-01T00:00:00.0Z", "x" * 500),
    *("00000000-0000-0000-0000-000000000005", "{00000000000000000000000000000005}", "domain_death", "domain_shutdown"),
    *("disk_eject", "operation_complete", "resynced", "events_lost", "domain_create_console_available", 9, 62),
    *("1e9999", "2026-11-26T08:00:00.1e9Z", "2026-11-26T08:00:00.nanZ", "qdisk", "empty", "__class__", 2**63),
)
_VALID = {
    **dict.fromkeys(_FIELDS, 1),
    "uuid": None,
    "time": None,
    "seq": None,
    "name": None,
    "vdev": "xvda",
    "reason": "because",
    "rc": 0,
    "disk": dict.fromkeys(("backend_domname", "pdev_path", "vdev", "script"), None)
    | dict.fromkeys(("backend_domid", "backend", "format", "removable", "readwrite", "is_cdrom"), 1),
}


def _text(choices: Choices) -> str:
    if choices.number() % 4 == 0:
        return choices.rest().decode("utf-8", "surrogateescape")
    content: dict[str, Any] = {**_VALID, "type": choices.pick(_VALUES)}
    for _ in range(choices.number() % 8):
        content[choices.pick(_FIELDS)] = choices.pick(_VALUES)
    if choices.number() % 2 and isinstance(content["disk"], dict):
        content["disk"] = {
            **content["disk"],
            choices.pick(("vdev", "backend", "format", "script")): choices.pick(_VALUES),
        }
    return json.dumps(content)


def run(data: bytes) -> None:
    try:
        event = from_json(_text(Choices(data)))
    except ValueError as error:
        if str(error).startswith("not an event that gxl wrote"):
            return
        raise
    again = event.to_json()
    assert from_json(again) == event
    assert "\n" not in again
    json.loads(again)
    hash(event)
    repr(event)
