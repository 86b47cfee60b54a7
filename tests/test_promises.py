# SPDX-License-Identifier: LGPL-2.1-or-later
"""The page of promises names tests that exist, and so does every other."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent


@functools.cache
def functions_of(path: Path) -> set[str]:
    if not path.exists():
        return set()
    return {
        node.name
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


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


def test_whatever_test_any_page_names_exists() -> None:
    tests = set().union(*(functions_of(path) for path in (ROOT / "tests").rglob("test_*.py")))
    missing = []
    for page in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("realxen/*.md")):
        text = page.read_text()
        for file, test in re.findall(r"\b((?:tests|gxl/testing)/[\w/]*\.py)(?:::(\w+))?", text):
            # A page may tell of a package of its reader's, as gxl-trio is.
            places = (ROOT / file, ROOT / "examples" / "gxl-trio" / file)
            if file != "tests/test_x.py" and not any(place.exists() for place in places):
                missing.append(f"{page.name}: {file}")
            elif test and test not in functions_of(ROOT / file):
                missing.append(f"{page.name}: {file}::{test}")
        missing += [f"{page.name}: {test}" for test in re.findall(r"`(test_\w+)`", text) if test not in tests]
    assert missing == []
