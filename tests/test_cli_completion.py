# SPDX-License-Identifier: LGPL-2.1-or-later
"""`gxl completion`, read by the shells that it is for."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest
from programs import ROOT
from requirements import Requirements


@pytest.fixture
def environment(require: Requirements, tmp_path: Path) -> dict[str, str]:
    """In which a shell finds gxl, and nobody's settings."""
    command = require.file(Path(sys.executable).with_name("gxl"))
    return {**os.environ, "PATH": f"{command.parent}:{os.environ['PATH']}", "HOME": str(tmp_path), "TERM": "dumb"}


def said(environment: dict[str, str], *command: str) -> str:
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_bash_completes_commands(require: Requirements, environment: dict[str, str]) -> None:
    script = """
    eval "$(gxl completion bash)"
    COMP_WORDS=(gxl rep); COMP_CWORD=1; _gxl_completion gxl; echo "${COMPREPLY[@]}"
    """
    assert said(environment, require.program("bash"), "--norc", "-c", script).split() == ["replay"]


@pytest.mark.parametrize(
    ("typed", "completed"), [("gxl rep", "replay"), ("gxl watch --js", "--json"), ("gxl wait web1 --for d", "death")]
)
def test_fish_completes_commands_options_and_their_values(
    require: Requirements, environment: dict[str, str], typed: str, completed: str
) -> None:
    script = f"source (gxl completion fish | psub); complete -C '{typed}'"
    assert said(environment, require.program("fish"), "--no-config", "-c", script).split("\t")[0].strip() == completed


def test_zsh_completes_what_is_typed_at_its_prompt(require: Requirements, environment: dict[str, str]) -> None:
    # zsh completes nowhere but in its line editor, which wants a terminal.
    ours, theirs = pty.openpty()
    command = [require.program("zsh"), "-f", "-i"]
    shell = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, cwd=ROOT)
    os.close(theirs)
    try:
        os.write(ours, b'autoload -U compinit; compinit -u -D; eval "$(gxl completion zsh)"; print READ""Y\n')
        read_until(ours, b"READY")
        os.write(ours, b"gxl rep\t")
        read_until(ours, b"gxl replay")
    finally:
        shell.kill()
        shell.wait()
        os.close(ours)


def read_until(fd: int, text: bytes) -> None:
    """Read from a terminal until this was shown."""
    shown, deadline = b"", time.monotonic() + 60
    while text not in shown:
        ready, _, _ = select.select([fd], [], [], max(0.0, deadline - time.monotonic()))
        assert ready, shown
        shown += os.read(fd, 4096)
