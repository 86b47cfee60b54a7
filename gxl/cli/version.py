# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which gxl this is."""

from __future__ import annotations

from importlib import metadata


def own_version() -> str:
    """The version that is installed, or that none is."""
    try:
        return metadata.version("gxl")
    except metadata.PackageNotFoundError:
        return "from a checkout"
