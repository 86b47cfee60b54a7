# SPDX-License-Identifier: LGPL-2.1-or-later
"""The real libxenlight, through cffi in ABI mode: nothing is compiled, and no pointer leaves this package."""

from gxl.engines.libxl.engine import LibxlEngine

__all__ = ["LibxlEngine"]
