# SPDX-License-Identifier: LGPL-2.1-or-later
"""Text for terminals."""

from __future__ import annotations


def printable(text: str) -> str:
    """`text` without what would drive a terminal: whoever names a domain must not."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii") for letter in text
    )
