# SPDX-License-Identifier: LGPL-2.1-or-later
"""Choosing an engine by name."""

from __future__ import annotations

import subprocess
import sys

import pytest
from distributions import Install

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
    with pytest.raises(EngineUnavailable, match=r"no engine 'xend' \(asked for by name\): known are: embed.*libxl"):
        engines.choose("xend")
    monkeypatch.setenv("GXL_ENGINE", "xend")
    with pytest.raises(EngineUnavailable, match=r"no engine 'xend' \(\$GXL_ENGINE names it\)"):
        engines.choose()
    with pytest.raises(TypeError, match="by its name"):
        engines.choose(3)  # type: ignore[arg-type]  # that it is refused is what is tested


@pytest.mark.parametrize(
    ("target", "verb", "reason"),
    [
        ("no_such_module:Engine", "loaded", "No module named 'no_such_module'"),
        ("gxl.engines:NoSuchThing", "loaded", "NoSuchThing"),
        ("tidal_loop", "opened", "TypeError: 'module' object is not callable"),
        ("tidal_loop:fails", "opened", "OSError: no such loop here"),
        ("tidal_loop:exits", "opened", "SystemExit: a tide table is needed"),
        ("builtins:object", "used", "provides no IEngine"),
    ],
)
def test_a_broken_engine_is_named_and_hurts_nobody_else(target: str, verb: str, reason: str, install: Install) -> None:
    install("tidal", "gxl.engines", broken=target, sound="gxl.engines.embedded.engine:EmbeddedEngine")
    with pytest.raises(EngineUnavailable, match=f"engine 'broken' can't be {verb}") as raised:
        engines.provide("broken")
    ((what, why),) = raised.value.attempts
    assert (what, reason in why) == (f"{target}, from tidal", True), why
    assert engines.choose("sound") is EmbeddedEngine
    survey = {found.name: found for found in engines.survey("sound")}
    assert reason in survey["broken"].problem
    assert (survey["sound"].problem, survey["sound"].chosen) == ("", "asked for by name")
    assert survey["embedded"].problem == ""


def test_what_is_neither_an_engine_nor_a_name_is_refused() -> None:
    with pytest.raises(TypeError, match="provides IEngine, not <class"):
        engines.provide(EmbeddedEngine)  # type: ignore[arg-type]  # that it is refused is what is tested


def test_choosing_another_engine_loads_neither_cffi_nor_an_event_loop() -> None:
    code = (
        "import sys; from gxl.engines import choose; choose('embedded')().ctx_free();"
        "print([name for name in ('cffi', '_cffi_backend', 'gevent') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"
