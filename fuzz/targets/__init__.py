# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is fuzzed, a module each: its `run(data)` does with any bytes what they say, and raises if that did harm."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from pathlib import Path

NAMES = sorted(module.name for module in pkgutil.iter_modules(__path__))
CORPUS = Path(__file__).parent.parent / "corpus"


def load(name: str) -> Callable[[bytes], None]:
    """The target's `run`."""
    run: Callable[[bytes], None] = importlib.import_module(f"{__name__}.{name}").run
    return run


def about(name: str) -> str:
    """The first line of what the target says of itself."""
    return (importlib.import_module(f"{__name__}.{name}").__doc__ or "").strip().splitlines()[0]


def corpus(name: str) -> list[Path]:
    """The inputs that are kept: those that found something, and those that lead deep into the code."""
    return sorted((CORPUS / name).iterdir())
