# SPDX-License-Identifier: LGPL-2.1-or-later
"""Packages with entry points, as pip leaves them behind, for as long as a test runs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

MODULE = """
from zope.interface import implementer
from gxl.interfaces import IHub

@implementer(IHub)
class Hub:
    name = "other"
    version = "1.0"
    def attach(self, sink):
        raise NotImplementedError

@implementer(IHub)
class FailsLate(Hub):
    name = "late"
    def attach(self, sink):
        raise RuntimeError("no water")

@implementer(IHub)
class BindsNothing(Hub):
    name = "nothing"
    def attach(self, sink):
        return None

class Panic(BaseException):
    pass

class Unspeakable(Exception):
    def __str__(self):
        raise ValueError("no words")

def panics():
    raise Panic("the moon is gone")

def speechless():
    raise Unspeakable

def fails():
    raise OSError("no such loop here")

def exits():
    raise SystemExit("a tide table is needed")
"""


class Install:
    """Puts distributions on the path, each in a place of its own, and the module `tidal_loop` that they point to."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._directory = directory
        self._monkeypatch = monkeypatch
        self.places = [str(directory)]
        """For the $PYTHONPATH of another process."""
        (directory / "tidal_loop.py").write_text(MODULE)
        monkeypatch.syspath_prepend(directory)
        monkeypatch.delitem(sys.modules, "tidal_loop", raising=False)

    def __call__(self, distribution: str, group: str, **offers: str) -> None:
        """A distribution that offers `name = target` in this entry point group; it is found before all others."""
        entries = "".join(f"{name} = {target}\n" for name, target in offers.items())
        self.raw(distribution, f"[{group}]\n{entries}".encode(), f"Metadata-Version: 2.1\nName: {distribution}\n")

    def raw(self, distribution: str, entry_points: bytes, metadata: str | None) -> None:
        """A distribution with just these files; None: without METADATA."""
        place = self._directory / distribution
        written = place / f"{distribution}-1.0.dist-info"
        written.mkdir(parents=True)
        (written / "entry_points.txt").write_bytes(entry_points)
        if metadata is not None:
            (written / "METADATA").write_text(metadata)
        self._monkeypatch.syspath_prepend(place)
        self.places.insert(0, str(place))
