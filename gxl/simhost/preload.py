# SPDX-License-Identifier: LGPL-2.1-or-later
"""Builds the library that, preloaded, makes libxenctrl talk to a simulated host."""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
from pathlib import Path

_SOURCE = Path(__file__).with_name("preload.c")


def cache_directory() -> Path:
    """Where the built library is kept between runs."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gxl"


def library(directory: Path | None = None) -> Path:
    """The library's path; it is compiled with $CC (or cc) unless `directory` has it from this very source.

    OSError: there is no compiler, or it fails; the message says how.
    """
    directory = cache_directory() if directory is None else directory
    compiler = os.environ.get("CC") or "cc"
    source = _SOURCE.read_bytes()
    path = directory / f"preload-{hashlib.sha256(source + compiler.encode()).hexdigest()[:16]}.so"
    if path.exists():
        return path
    directory.mkdir(parents=True, exist_ok=True)
    # Several processes may build at once: each makes its own, and the last to finish wins with the same content.
    with tempfile.TemporaryDirectory(dir=directory) as workshop:
        built = Path(workshop) / "preload.so"
        command = [*compiler.split(), "-shared", "-fPIC", "-O2", "-o", str(built), str(_SOURCE), "-ldl", "-lpthread"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            raise FileNotFoundError(2, f"no C compiler called {compiler!r}; install one or set $CC") from None
        if done.returncode:
            raise OSError(f"the preload library can't be compiled: {done.stderr.strip()}")
        built.rename(path)
    return path
