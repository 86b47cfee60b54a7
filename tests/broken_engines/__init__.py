# SPDX-License-Identifier: LGPL-2.1-or-later
"""Engines with one thing wrong, for the conformance suite to find. Each is the embedded engine, spoilt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from gxl.engines.embedded import EmbeddedEngine

Patch = pytest.MonkeyPatch
Spoil = Callable[[EmbeddedEngine, Patch], None]


class Broken(NamedTuple):
    """What spoils an engine, and the case that must notice."""

    case: str
    spoil: Spoil


BROKEN: list[Broken] = []


def fails(case: str) -> Callable[[Spoil], None]:
    """What is decorated spoils an engine, which must then fail `case`."""

    def register(spoil: Spoil) -> None:
        BROKEN.append(Broken(case, spoil))

    return register


def parts(engine: EmbeddedEngine) -> Any:
    """What the engine is made of."""
    return engine._ctx
