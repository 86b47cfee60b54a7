# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which inputs are worth keeping: those that reach a line of gxl's that no smaller one reaches."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FrameType
from typing import Any

_PACKAGE = str(Path(__file__).resolve().parent.parent / "gxl") + "/"

Line = tuple[str, int]


def reached(run: Callable[[bytes], None], data: bytes) -> set[Line]:
    """The lines of gxl's that `run` with this input runs."""
    lines: set[Line] = set()

    def local(frame: FrameType, event: str, argument: object) -> Any:
        lines.add((frame.f_code.co_filename, frame.f_lineno))
        return local

    def enter(frame: FrameType, event: str, argument: object) -> Any:
        return local if frame.f_code.co_filename.startswith(_PACKAGE) else None

    before = sys.gettrace()
    sys.settrace(enter)
    try:
        run(data)
    finally:
        sys.settrace(before)
    return lines


def keep(run: Callable[[bytes], None], candidates: Iterable[Path], folder: Path) -> int:
    """Add to `folder` those of `candidates` that reach what its inputs don't; how many."""
    folder.mkdir(exist_ok=True)
    known: set[Line] = set()
    for path in folder.iterdir():
        known |= reached(run, path.read_bytes())
    added = 0
    for data in sorted((path.read_bytes() for path in candidates), key=lambda data: (len(data), data)):
        lines = reached(run, data)
        if not lines <= known:
            known |= lines
            (folder / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
            added += 1
    return added
