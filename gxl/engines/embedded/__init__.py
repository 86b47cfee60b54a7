# SPDX-License-Identifier: LGPL-2.1-or-later
"""The header's semantics in Python, over a simulated host: for development, tests and demonstrations anywhere."""

from gxl.engines.embedded.engine import EmbeddedEngine

__all__ = ["EmbeddedEngine"]
