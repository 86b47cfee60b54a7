# SPDX-License-Identifier: LGPL-2.1-or-later
"""How an event's values are spelled in JSON, and what is wrong with one that is spelled otherwise.

Whoever wrote the JSON may have written anything: it may come from a file, a browser or another program. Every refusal
is a ValueError that names the field, what was expected of it and what it was.
"""

from __future__ import annotations

import contextlib
import enum
import math
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal, localcontext
from typing import Any
from uuid import UUID

_SHOWN = 80
_DIGITS = 400
"""Enough for a second and the fraction of any float: the smallest has 324 places."""

Reader = Callable[[str, object], Any]


def _refuse(field: str, expected: str, value: object) -> ValueError:
    shown = repr(value)
    if len(shown) > _SHOWN:
        shown = f"{shown[:_SHOWN]}…"
    return ValueError(f"{field} must be {expected}, not {shown}")


def member(content: object, field: str, within: str = "") -> object:
    """`content[field]`, where `content` is what should be a JSON object; `within` is the field that it stands in."""
    if not isinstance(content, dict):
        raise _refuse(within or "the event", "an object", content)
    if field not in content:
        raise ValueError(f"{within and within + '.'}{field} is missing")
    return content[field]


def number(lowest: int, limit: int) -> Reader:
    """An integer from `lowest` to below `limit`."""

    def read(field: str, value: object) -> int:
        # A bool is an int to Python, and 1.0 an integer to JSON; neither is what gxl writes.
        if type(value) is not int or not lowest <= value < limit:
            raise _refuse(field, f"an integer from {lowest} to {limit - 1}", value)
        return value

    return read


def text(field: str, value: object) -> str:
    """A string."""
    if not isinstance(value, str):
        raise _refuse(field, "a string", value)
    return value


def optional(reader: Reader) -> Reader:
    """What `reader` takes, or null."""
    return lambda field, value: None if value is None else reader(field, value)


def several(reader: Reader) -> Reader:
    """A list of what `reader` takes."""

    def read(field: str, value: object) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise _refuse(field, "a list", value)
        return tuple(reader(f"{field}[{place}]", entry) for place, entry in enumerate(value))

    return read


def named(kind: type[enum.IntEnum], numbers: Reader | None = None) -> Reader:
    """The name of one of `kind` in lower case; with `numbers`, or the number of one that has no name here."""
    names = {entry.name.lower(): entry for entry in kind}

    def read(field: str, value: object) -> int:
        if isinstance(value, str) and value in names:
            return names[value]
        if numbers is None or type(value) is not int:
            raise _refuse(field, f"one of {', '.join(names)}{'' if numbers is None else ', or a number'}", value)
        plain: int = numbers(field, value)
        return plain

    return read


def uuid(field: str, value: object) -> UUID:
    """A UUID: 8-4-4-4-12 hexadecimal digits."""
    try:
        found = UUID(text(field, value))
    except ValueError:
        found = None
    if found is None or str(found) != str(value).lower():
        raise _refuse(field, "a UUID such as 12345678-9abc-def0-1234-56789abcdef0", value)
    return found


def rfc3339(seconds: float) -> str:
    """A moment in UTC, exact to the last bit of `seconds`."""
    # Cut to microseconds, which is all that datetime can hold, a float would not come back the same.
    exact = Decimal(repr(float(seconds)))
    whole = math.floor(exact)
    with localcontext(prec=_DIGITS):
        # A fraction counts forwards from its second, before 1970, too.
        fraction = f"{exact - whole:f}".partition(".")[2]
    moment = datetime.fromtimestamp(whole, UTC).replace(tzinfo=None)
    return f"{moment.isoformat(timespec='seconds')}.{fraction or '0'}Z"


def moment(field: str, value: object) -> float:
    """What rfc3339 wrote."""
    whole, point, fraction = text(field, value).removesuffix("Z").partition(".")
    seconds = None
    with contextlib.suppress(ValueError):
        seconds = int(datetime.strptime(whole, "%Y-%m-%dT%H:%M:%S").replace(tzinfo=UTC).timestamp())
    digits = fraction if point else "0"
    if seconds is None or not (digits.isascii() and digits.isdigit()) or not str(value).endswith("Z"):
        raise _refuse(field, "a time in UTC such as 2026-11-26T08:15:00.25Z", value)
    with localcontext(prec=len(digits) + _DIGITS):
        return float(seconds + Decimal(f"0.{digits}"))
