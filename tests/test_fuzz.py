# SPDX-License-Identifier: LGPL-2.1-or-later
"""The fuzzer's kept inputs, each run once, and the fuzzer itself: that it would see what goes wrong."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from requirements import Requirements

from fuzz import keeping, targets
from fuzz.choices import Choices

ROOT = Path(__file__).parent.parent
KEPT = [(name, path) for name in targets.NAMES for path in targets.corpus(name)]


@pytest.mark.parametrize("name", targets.NAMES)
def test_no_kept_input_does_harm(name: str) -> None:
    kept = targets.corpus(name)
    assert kept, f"{name} has no corpus: python -m fuzz {name} --keep"
    run = targets.load(name)
    for path in kept:
        run(path.read_bytes())


def test_the_corpus_is_small_and_named_after_its_content() -> None:
    assert sum(path.stat().st_size for _, path in KEPT) < 400_000
    assert all(re.fullmatch(r"[0-9a-f]{16}", path.name) for _, path in KEPT)


def test_any_bytes_are_decisions() -> None:
    choices = Choices(b"\x05\x02ab\xff\x01" + bytes(range(10)) + b"\x01\x02")
    assert (choices.number(), choices.chunk(), choices.chunk()) == (5, b"ab", bytes(range(10)))
    assert (choices.pick("xyz"), choices.number(4), bool(choices)) == ("y", 2, False)
    assert (choices.number(), choices.chunk(), choices.pick("xyz"), choices.rest()) == (0, b"", "x", b"")


def test_an_input_is_kept_if_it_reaches_what_no_smaller_one_does(tmp_path: Path) -> None:
    from gxl.cli.text import printable

    def run(data: bytes) -> None:
        if data.startswith(b"deep"):
            printable(data.decode())

    candidates, folder = tmp_path / "candidates", tmp_path / "kept"
    candidates.mkdir()
    for number, data in enumerate((b"deeper", b"deep", b"no", b"not")):
        (candidates / str(number)).write_bytes(data)
    assert keeping.keep(run, candidates.iterdir(), folder) == 1
    assert [path.read_bytes() for path in folder.iterdir()] == [b"deep"]
    assert keeping.keep(run, candidates.iterdir(), folder) == 0


def test_what_is_found_is_printed_with_the_command_that_shows_it_again(require: Requirements, tmp_path: Path) -> None:
    require.module("atheris")
    (tmp_path / "gxl").mkdir()
    (tmp_path / "fuzz").mkdir()
    for source in ROOT.glob("fuzz/*.py"):
        (tmp_path / "fuzz" / source.name).write_text(source.read_text())
    (tmp_path / "gxl" / "__init__.py").write_text("def f(data):\n    if b'e' in data:\n        raise KeyError(data)\n")
    (tmp_path / "fuzz" / "targets").mkdir()
    (tmp_path / "fuzz" / "targets" / "__init__.py").write_text((ROOT / "fuzz/targets/__init__.py").read_text())
    (tmp_path / "fuzz" / "targets" / "broken.py").write_text('"""Breaks."""\nfrom gxl import f\nrun = f\n')
    (tmp_path / "fuzz" / "corpus").mkdir()
    command = [sys.executable, "-m", "fuzz"]
    found = subprocess.run(
        [*command, "--seconds", "20", "--seed", "1"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert found.returncode == 1, found.stdout + found.stderr
    assert "KeyError" in found.stdout
    replay = re.search(r"python -m fuzz broken --replay (\S+)", found.stdout)
    assert replay, found.stdout
    again = subprocess.run(
        [*command, "broken", "--replay", replay[1]], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert again.returncode == 1
    assert "KeyError" in again.stderr
    Path(replay[1]).unlink()
    Path(replay[1]).parent.rmdir()
