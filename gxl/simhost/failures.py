# SPDX-License-Identifier: LGPL-2.1-or-later
"""Errors that a test asked for."""

from __future__ import annotations

import errno
from collections import deque

from gxl.simhost.hypercalls import HYPERCALLS
from gxl.xenstore import Operation

CONNECT = "connect"
CALLS = frozenset({CONNECT, *HYPERCALLS, *(operation.name for operation in Operation)})


class Failures:
    """Per call, the errnos with which its next invocations fail."""

    def __init__(self) -> None:
        self._pending: dict[str, deque[int]] = {}

    def add(self, call: str, number: int) -> None:
        if call not in CALLS:
            raise ValueError(f"call must be one of {', '.join(sorted(CALLS))}, not {call!r}")
        # 11.0 is found in the table, too, but breaks whoever fails with it.
        if not isinstance(number, int) or number not in errno.errorcode:
            raise ValueError(f"errno must be one of the errno module's numbers, not {number!r}")
        self._pending.setdefault(call, deque()).append(number)

    def take(self, call: str) -> int:
        """The errno with which this invocation of `call` must fail, or 0."""
        pending = self._pending.get(call)
        return pending.popleft() if pending else 0
