# SPDX-License-Identifier: LGPL-2.1-or-later
"""What docs/command-line.md shows is run: all of it as one session on a simulated host, as its reader would."""

import os
import re
import subprocess
import sys
from pathlib import Path

from programs import ROOT
from requirements import Requirements

from gxl import recording


def test_what_the_page_on_the_command_line_shows_works(require: Requirements, tmp_path: Path) -> None:
    require.library("xenlight")
    page = (ROOT / "docs" / "command-line.md").read_text()
    start, *commands = re.findall(r"^\$ (.+)$", page, re.MULTILINE)
    assert len(commands) >= 8
    script = "\n".join(f'{command}; echo "== $? {command.split()[1]}"' for command in commands)
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    host, _, shell = start.partition(" -- ")
    assert shell == "bash"
    done = subprocess.run(
        [*host.split(), "--", "bash", "-c", script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    ends = [tuple(end) for end in re.findall(r"^== (\d+) (\S+)$", done.stdout, re.MULTILINE)]
    wanted = {"list": "0", "watch": "124", "wait": "124", "-s": "124", "replay": "0", "completion": "0"}
    assert ends == [(wanted[name], name) for _, name in ends], done.stdout + done.stderr
    assert len(ends) == len(commands)
    for block in re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE):
        subprocess.run(
            [sys.executable, "-c", block], cwd=tmp_path, env={**environment, "PYTHONPATH": str(ROOT)}, check=True
        )


def test_the_recording_that_is_shown_is_one() -> None:
    (shown,) = re.findall(r"^```json\n(.*?)^```", (ROOT / "docs" / "command-line.md").read_text(), re.DOTALL | re.M)
    assert recording.complete(recording.parse(shown.encode().splitlines(keepends=True)))
