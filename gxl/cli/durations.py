# SPDX-License-Identifier: LGPL-2.1-or-later
"""Durations, as people write them: 30s, 5m, 1h30m, 0.5."""

from __future__ import annotations

import math
import re
from typing import Any

import click

_NUMBER = r"\d+(?:\.\d+)?"
_UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_PARTS = re.compile("".join(f"(?:({_NUMBER}){unit})?" for unit in _UNITS), re.ASCII)
_BARE = re.compile(_NUMBER, re.ASCII)


def seconds(text: str) -> float:
    """How many seconds `text` says. ValueError if it says none."""
    if _BARE.fullmatch(text):
        total = float(text)
    elif text and (parts := _PARTS.fullmatch(text)):
        total = sum(float(part) * unit for part, unit in zip(parts.groups(), _UNITS.values(), strict=True) if part)
    else:
        raise ValueError(
            f"{text!r} is no duration: write 30s, 5m, 1h30m or 500ms; a bare number such as 0.5 is seconds"
        )
    if math.isinf(total):
        raise ValueError(f"{text[:20]}… is too long a duration")
    return total


class _Duration(click.ParamType[float]):
    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        try:
            return seconds(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


DURATION = _Duration()
"""The type of an option that takes one; a float of seconds comes out."""
