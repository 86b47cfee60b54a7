# SPDX-License-Identifier: LGPL-2.1-or-later
"""`gxl doctor`: what gxl stands on."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Iterator
from typing import Any

import click

from gxl import compiled, engines, hubhooks
from gxl.cli.output import Output
from gxl.cli.text import printable
from gxl.cli.version import own_version
from gxl.context import Context
from gxl.errors import GxlError
from gxl.plugins import describe, unreadable


@click.command(short_help="Say what gxl finds here, and why not more.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def doctor(as_json: bool) -> None:
    """Say what a program that uses gxl gets here, and why not something else.

    The status is 0 if such a program would work, and 1 if it would not.
    """
    report = _diagnosis()
    out = Output()
    # Plug-ins and what they say are other people's.
    for text in [json.dumps(report)] if as_json else map(printable, _in_words(report)):
        out.line(text)
    sys.exit(0 if report["works"] else 1)


def _diagnosis() -> dict[str, Any]:
    report: dict[str, Any] = {
        "gxl": own_version(),
        "form": compiled.form,
        "python": platform.python_version(),
        "system": platform.platform(),
        "engines": [found._asdict() for found in engines.survey()],
        "hubs": [found._asdict() for found in hubhooks.survey()],
        "unreadable": unreadable(),
    }
    try:
        Context().close()
        report["problem"] = ""
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a plugin may fail in a way of its own
        report["problem"] = str(error) if isinstance(error, GxlError) else describe(error)
    report["works"] = not report["problem"]
    return report


def _in_words(report: dict[str, Any]) -> Iterator[str]:
    yield f"gxl {report['gxl']} ({report['form']}), Python {report['python']}, {report['system']}"
    for kind in ("engine", "hub"):
        for part in report[f"{kind}s"]:
            if part["chosen"]:
                yield f"{kind} {part['name']} is in force: {part['chosen']}"
            elif part["problem"]:
                yield f"{kind} {part['name']} is not in force: it can't be used (it comes from {part['origin']})"
            else:
                yield f"{kind} {part['name']} is not in force: set GXL_{kind.upper()}={part['name']} to use it"
            for said in (part["description"], part["version"]):
                if said:
                    yield f"    {said}"
            yield from (f"    {line}" for line in part["problem"].splitlines())
    for name, why in report["unreadable"].items():
        yield f"what {name} offers is not known, since its entry points can't be read: {why}"
    if report["works"]:
        yield "a Context can be opened"
    elif any(part["problem"] == report["problem"] for part in report["engines"] + report["hubs"]):
        yield "no Context can be opened, as said above"
    else:
        yield from f"no Context can be opened: {report['problem']}".splitlines()
