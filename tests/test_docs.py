# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the documents say is there is there, and what they show works."""

import ast
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from requirements import Requirements
from zope.interface.interface import InterfaceClass

import gxl
from gxl import interfaces

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
DOCUMENTS = [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
HEADER_MAP = ROOT / "docs" / "header-map.md"

# | `symbol` … | `gxl.place`, … | `tests/file.py::name`, … |
ROW = re.compile(r"^\| `(\w+)`.*? \| (.*?) \| (.*?) \|$", re.MULTILINE)
ROWS = {symbol: (places, proofs) for symbol, places, proofs in ROW.findall(HEADER_MAP.read_text())}


def symbols(header: str) -> set[str]:
    """Every function, type, enum member, macro and struct member of a C header, and every libxl type that it uses."""
    code = re.sub(r"/\*.*?\*/", "", header, flags=re.DOTALL)
    found = set(re.findall(r"\b(?:libxl|LIBXL)_\w+", code)) - {"LIBXL_EVENT_H"}
    for body in re.findall(r"typedef struct \w*\s*\{(.*?)^\}", code, re.DOTALL | re.MULTILINE):
        found |= set(re.findall(r"\(\*(\w+)\)", body))
        found |= set(re.findall(r"^\s*\w+ (\w+);", body, re.MULTILINE))
    return found | set(re.findall(r"^struct (\w+);", code, re.MULTILINE))


def resolve(dotted: str) -> object:
    """The object with this name; an interface's method or attribute is looked up in it."""
    parts = dotted.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:]:
            found = found[part] if isinstance(found, InterfaceClass) else getattr(found, part)
        return found
    raise AttributeError(dotted)


def functions_of(path: Path) -> set[str]:
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, functions)}


def test_the_header_map_has_every_symbol_of_the_header_and_no_other(require: Requirements) -> None:
    header = symbols(require.file("/usr/include/libxl_event.h").read_text())
    assert len(header) > 45
    assert set(ROWS) == header


@pytest.mark.parametrize("symbol", ROWS)
def test_a_symbol_is_where_the_header_map_says(symbol: str) -> None:
    places, _ = ROWS[symbol]
    named = re.findall(r"`(gxl\.[\w.]+)`", places)
    assert named or places.startswith("none: "), f"{symbol}: name a place, or say why there is none"
    for dotted in named:
        resolve(dotted)


@pytest.mark.parametrize("symbol", ROWS)
def test_a_symbol_is_proved_where_the_header_map_says(symbol: str) -> None:
    places, proofs = ROWS[symbol]
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", proofs)
    assert named or places.startswith("none: "), f"{symbol}: name a test that proves it"
    for file, name in named:
        assert name in functions_of(ROOT / file), f"{symbol}: there is no {name} in {file}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_within_the_project_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text()):
        assert (document.parent / target).exists(), target


def test_the_reference_has_every_public_name() -> None:
    pages = "".join(page.read_text() for page in (ROOT / "docs").glob("*.md"))
    generated = set(re.findall(r"^\.\. auto\w+:: ([\w.]+)", pages, re.MULTILINE))
    errors = {f"gxl.{name}" for name in gxl.__all__ if hasattr(gxl.errors, name)}
    contract = {
        f"gxl.interfaces.{name}" for name, found in vars(interfaces).items() if isinstance(found, InterfaceClass)
    }
    wanted = {f"gxl.{name}" for name in gxl.__all__} - errors | contract - {"gxl.interfaces.Interface"}
    assert "gxl.errors" in generated, "the whole module"
    assert not wanted - generated


def test_the_demo_shows_each_death_while_it_ticks() -> None:
    demo = [sys.executable, str(ROOT / "examples" / "demo.py")]
    done = subprocess.run(
        demo, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert len(re.findall(r"^web\d \(domain \d+\) is gone$", done.stdout, re.MULTILINE)) == 8
    assert len(re.findall(r"^ +tick \d+$", done.stdout, re.MULTILINE)) >= 3
