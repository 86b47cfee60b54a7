# SPDX-License-Identifier: LGPL-2.1-or-later
"""Choosing an engine by name."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint
from typing import Any

import pytest

from gxl import engines
from gxl.engines.embedded import EmbeddedEngine
from gxl.engines.libxl import LibxlEngine
from gxl.errors import EngineUnavailable


def test_a_name_chooses_a_factory() -> None:
    assert engines.choose("libxl") is LibxlEngine
    assert engines.choose("embedded") is EmbeddedEngine


def test_without_a_name_the_environment_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GXL_ENGINE", "embedded")
    assert engines.choose() is EmbeddedEngine
    assert engines.choose("libxl") is LibxlEngine
    monkeypatch.setenv("GXL_ENGINE", "")
    assert engines.choose() is LibxlEngine
    monkeypatch.delenv("GXL_ENGINE")
    assert engines.choose() is LibxlEngine


def test_an_unknown_name_lists_those_that_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EngineUnavailable, match=r"no engine 'xend' \(asked for\)\. Known are: embedded, .*libxl"):
        engines.choose("xend")
    monkeypatch.setenv("GXL_ENGINE", "xend")
    with pytest.raises(EngineUnavailable, match=r"no engine 'xend' \(\$GXL_ENGINE\)"):
        engines.choose()
    with pytest.raises(TypeError, match="by its name"):
        engines.choose(3)  # type: ignore[arg-type]


def test_other_packages_offer_engines_by_entry_points(monkeypatch: pytest.MonkeyPatch) -> None:
    offered = [
        EntryPoint("xapi", "gxl.engines.embedded:EmbeddedEngine", engines.GROUP),
        EntryPoint("broken", "no_such_module:Engine", engines.GROUP),
        EntryPoint("empty", "gxl.engines:NoSuchThing", engines.GROUP),
        EntryPoint("libxl", "no_such_module:Usurper", engines.GROUP),
    ]

    def entry_points(group: str) -> list[Any]:
        assert group == "gxl.engines"
        return offered

    monkeypatch.setattr(engines, "entry_points", entry_points)
    assert engines.choose("xapi") is EmbeddedEngine
    assert engines.choose("libxl") is LibxlEngine
    for name, reason in (("broken", "No module named 'no_such_module'"), ("empty", "NoSuchThing")):
        with pytest.raises(EngineUnavailable, match=f"engine '{name}' can't be loaded") as raised:
            engines.choose(name)
        assert reason in raised.value.attempts[0][1]


def test_choosing_another_engine_loads_neither_cffi_nor_an_event_loop() -> None:
    code = (
        "import sys; from gxl.engines import choose; choose('embedded')().ctx_free();"
        "print([name for name in ('cffi', '_cffi_backend', 'gevent') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"
