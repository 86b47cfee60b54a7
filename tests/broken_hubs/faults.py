# SPDX-License-Identifier: LGPL-2.1-or-later
"""Makes a broken provider of the asyncio hub and one part of it that has a fault."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from gxl.hubhooks import asyncio as right
from gxl.hubhooks.children import Children
from gxl.interfaces import IHub

FAULTS: list[tuple[str, Callable[[], IHub], str]] = []
"""The name of a broken provider, its factory, and the case that has to find it."""


class Hub(right.AsyncioHub):
    """The asyncio hub with another binding, other hooks, other waiters or other children."""

    def __init__(self, binding: Any, hooks: Any, waiter: Any, children: Any) -> None:
        self._parts = binding, hooks, waiter, children

    def attach(self, sink: Any) -> Any:
        binding, hooks, waiter, children = self._parts
        made = binding(asyncio.get_running_loop(), sink)
        made.osevent = hooks(made, made._fds)
        made.childproc = children(made, sink, made._fds, made.later)
        if waiter is not right._Waiter:
            made.waiter = lambda: waiter(made)
        return made


def fault(case: str) -> Callable[[type], type]:
    """Notes a broken part under its name, and which case has to find it."""

    def note(part: type) -> type:
        parts = {
            kind: part if issubclass(part, kind) else kind
            for kind in (right.AsyncioBinding, right._OSEvent, right._Waiter, Children)
        }
        FAULTS.append((part.__name__, lambda: Hub(*parts.values()), case))
        return part

    return note
