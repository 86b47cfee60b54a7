# SPDX-License-Identifier: LGPL-2.1-or-later
"""The rig of the conformance suite, for tests that are plain functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gxl.testing.hubs.rig import Rig, run_blocking


class BlockingRig:
    """A Rig whose until() and turn() block."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig

    def __getattr__(self, name: str) -> Any:
        return getattr(self._rig, name)

    def until(self, condition: Callable[[], object], what: str) -> None:
        """Let the loop run until `condition()`."""
        run_blocking(lambda: self._rig.until(condition, what))

    def turn(self) -> None:
        """Let the loop look at its fds and at what is due."""
        run_blocking(self._rig.turn)

    def another(self) -> BlockingRig:
        """A second binding of the same provider."""
        return BlockingRig(self._rig.another())
