# SPDX-License-Identifier: LGPL-2.1-or-later
"""The conformance suite for engines, on the embedded one."""

from __future__ import annotations

from gxl.engines.embedded import EmbeddedEngine
from gxl.simhost import SimHost
from gxl.testing.engines import EngineTests


class TestEmbedded(EngineTests):
    def make_engine(self, host: SimHost) -> EmbeddedEngine:
        return EmbeddedEngine(host)
