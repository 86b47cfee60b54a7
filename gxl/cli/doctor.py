# SPDX-License-Identifier: LGPL-2.1-or-later
"""`gxl doctor`: what gxl stands on."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Iterator
from typing import Any

import click

from gxl import engines, hubhooks
from gxl.cli.version import own_version
from gxl.context import Context
from gxl.errors import GxlError


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def doctor(as_json: bool) -> None:
    """Say what a program that uses gxl gets here, and why not something else.

    The status is 0 if such a program would work, and 1 if it would not.
    """
    report = _diagnosis()
    click.echo(json.dumps(report) if as_json else "\n".join(_in_words(report)))
    sys.exit(0 if report["works"] else 1)


def _diagnosis() -> dict[str, Any]:
    named = os.environ.get("GXL_ENGINE")
    reason = "$GXL_ENGINE names it" if named else "$GXL_ENGINE is not set, and it is the default"
    report: dict[str, Any] = {
        "gxl": own_version(),
        "python": platform.python_version(),
        "system": platform.platform(),
        "engines": [_engine(name, reason if name == (named or "libxl") else "") for name in sorted(engines.known())],
        "hubs": [_hub(found) for found in hubhooks.survey()],
    }
    try:
        Context().close()
        report["problem"] = ""
    except GxlError as error:
        report["problem"] = str(error)
    report["works"] = not report["problem"]
    return report


def _engine(name: str, chosen: str) -> dict[str, str]:
    version = problem = ""
    try:
        engine = engines.choose(name)()
        version = engine.version
        engine.ctx_free()
    except GxlError as error:
        problem = str(error)
    return {"name": name, "chosen": chosen, "version": version, "problem": problem}


def _hub(found: hubhooks.Found) -> dict[str, str]:
    return {
        "name": found.name,
        "chosen": found.chosen,
        "description": found.description,
        "version": found.version,
        "problem": found.problem,
    }


def _in_words(report: dict[str, Any]) -> Iterator[str]:
    yield f"gxl {report['gxl']}, Python {report['python']}, {report['system']}"
    for kind in ("engine", "hub"):
        for part in report[f"{kind}s"]:
            if part["chosen"]:
                yield f"{kind} {part['name']} is in force: {part['chosen']}"
            else:
                yield f"{kind} {part['name']} is not in force: set GXL_{kind.upper()}={part['name']} to use it"
            for said in (part.get("description"), part["version"]):
                if said:
                    yield f"    {said}"
            yield from (f"    {line}" for line in part["problem"].splitlines())
    if report["works"]:
        yield "a Context can be opened"
    elif any(part["problem"] == report["problem"] for part in report["engines"] + report["hubs"]):
        yield "no Context can be opened, as said above"
    else:
        yield f"no Context can be opened: {report['problem']}"
