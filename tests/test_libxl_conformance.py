# SPDX-License-Identifier: LGPL-2.1-or-later
"""The conformance suite for engines, on the real libxenlight and a simulated host."""

from __future__ import annotations

import pytest

from gxl.engines.libxl import LibxlEngine
from gxl.simhost.remote import RemoteHost
from gxl.testing.engines import EngineTests


class TestLibxl(EngineTests):
    side = "library"

    def make_engine(self, host: RemoteHost) -> LibxlEngine:
        return LibxlEngine()

    @pytest.fixture
    def host(self, served_host: tuple[RemoteHost, dict[str, str]], monkeypatch: pytest.MonkeyPatch) -> RemoteHost:
        host, variables = served_host
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        host.reset()
        return host
