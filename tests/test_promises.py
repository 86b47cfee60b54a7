# SPDX-License-Identifier: LGPL-2.1-or-later
"""The page of promises names tests that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent


def functions_of(path: Path) -> set[str]:
    return {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)}


def test_each_promise_is_held_by_tests_that_exist() -> None:
    page = (ROOT / "docs" / "promises.md").read_text()
    named = re.findall(r"\[(tests/[^\]\s]+)::(\w+)\]", page)
    assert len(named) > 20
    missing = [f"{file}::{test}" for file, test in named if test not in functions_of(ROOT / file)]
    assert not missing
    promises = re.findall(r"(?ms)^\* .*?(?=^\* |^$|^#|\Z)", page)
    assert len(promises) > 10
    assert not [promise for promise in promises if "::" not in promise], "a promise that no test holds"
    rows = [line for line in page.splitlines() if line.startswith("| ")][2:]
    assert not [row for row in rows if "::" not in row]


def test_every_fault_of_the_list_is_on_the_page() -> None:
    page = (ROOT / "docs" / "promises.md").read_text()
    for path in (ROOT / "tests" / "faults").glob("test_*.py"):
        assert f"tests/faults/{path.name}::" in page
