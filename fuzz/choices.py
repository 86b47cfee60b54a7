# SPDX-License-Identifier: LGPL-2.1-or-later
"""Reads decisions out of bytes: any bytes are a valid sequence of them, and a small change stays a small change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

_Any = TypeVar("_Any")


class Choices:
    """Decisions, until the bytes are used up; from then on each is the first possible one."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def number(self, size: int = 1) -> int:
        """A number of `size` bytes."""
        return int.from_bytes(self.take(size), "little")

    def pick(self, options: Sequence[_Any]) -> _Any:
        """One of at most 256 `options`."""
        return options[self.number() % len(options)]

    def chunk(self) -> bytes:
        """Some bytes: as many as a byte before them says, or with 255 ten times as many as the next byte says."""
        length = self.number()
        return self.take(10 * self.number() if length == 255 else length)

    def take(self, size: int) -> bytes:
        """The next `size` bytes, or as many as there are."""
        taken = self._data[self._at : self._at + size]
        self._at += size
        return taken

    def rest(self) -> bytes:
        """All that is left."""
        return self.take(len(self._data))
