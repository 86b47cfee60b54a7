# SPDX-License-Identifier: LGPL-2.1-or-later
"""The checkout: which files are the project's, and a copy of them as somebody else has it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from requirements import Requirements

ROOT = Path(__file__).parent.parent


def tracked(require: Requirements) -> set[str]:
    """The paths of all files that git has, or would add."""
    require.file(ROOT / ".git")
    # A checkout that belongs to another user is git's to refuse, and not worth it here.
    git = [require.program("git"), "-c", "safe.directory=*", "-C", str(ROOT)]
    listed = subprocess.run(
        [*git, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        text=True,
        check=True,
    )
    return {name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()}


def copy(require: Requirements, target: Path) -> None:
    """Put into `target` what a fresh clone has."""
    for name in tracked(require):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, target / name)
