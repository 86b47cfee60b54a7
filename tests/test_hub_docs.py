# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is written for those who write hub providers agrees with the code, and with the example."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path

import pytest

from gxl.testing.hubs import CASES

ROOT = Path(__file__).parent.parent
GUIDE = (ROOT / "docs" / "write-a-hook-provider.md").read_text()
EXAMPLE = ROOT / "examples" / "gxl-trio"


def test_the_guide_shows_what_is_in_the_example() -> None:
    files = [EXAMPLE / "setup.cfg", EXAMPLE / "pyproject.toml", *EXAMPLE.glob("[gt]*/*.py")]
    example = "\n".join(path.read_text() for path in files)
    untyped = re.sub(r"(: [\w.\[\] |,]+)(?=[,)])|( -> \w+)(?=:\n)", "", example)
    blocks = re.findall(r"^```(?:python|ini|toml)\n(.*?)^```", GUIDE, re.DOTALL | re.MULTILINE)
    lines = {line.strip() for block in blocks for line in block.splitlines()} - {"", "..."}
    assert len(lines) > 10
    assert lines <= {line.strip() for line in untyped.splitlines()}


@pytest.mark.parametrize("provider", ["gevent", "asyncio", "poll"])
def test_each_provider_in_the_box_says_what_it_cannot_do(provider: str) -> None:
    said = inspect.getdoc(importlib.import_module(f"gxl.hubhooks.{provider}"))
    assert said is not None
    assert "\nWhat it can't do: " in said


def test_the_guide_names_cases_that_there_are() -> None:
    named = set(re.findall(r"`(an?_\w{30,})`", GUIDE))
    assert named
    assert named <= {case.__name__ for case in CASES}
