# SPDX-License-Identifier: LGPL-2.1-or-later
"""gxl's two forms, in one process: a test of a room that uses this plugin's fixture `form` runs in each."""

from __future__ import annotations

import pytest
from requirements import Requirements

from gxl import compiled, shield

_OF_PYTHON = {name: getattr(shield, f"_{name}") for name in ("hold", "let_go", "held_from")}


@pytest.fixture(params=["plain", "compiled"])
def form(request: pytest.FixtureRequest, require: Requirements, monkeypatch: pytest.MonkeyPatch) -> str:
    """Which of them: `plain`, or `compiled`. For what is opened from now on; signals are held by one of them alone."""
    form: str = request.param
    if form == "compiled":
        require.module("gxl._compiled")
    else:
        monkeypatch.setattr(compiled, "part", None)
    for name, in_python in _OF_PYTHON.items():
        monkeypatch.setattr(shield, name, in_python if form == "plain" else getattr(compiled.part, name))
    return form
