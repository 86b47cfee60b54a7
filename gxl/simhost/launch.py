# SPDX-License-Identifier: LGPL-2.1-or-later
"""Runs a simulated host in a process of its own, and says what to set so that Xen's tools see it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gxl.simhost import preload
from gxl.simhost.remote import RemoteHost


def environment(directory: Path) -> dict[str, str]:
    """The variables that make libxenstore, and libxenctrl through the preloaded library, use the host in `directory`.

    LD_PRELOAD matters when a program starts; the others are read when it opens libxl, libxenctrl or libxenstore, so a
    program that has the library preloaded can move on to another host. What is preloaded already stays so.
    """
    library = str(preload.library())
    others = [other for other in re.split("[: ]", os.environ.get("LD_PRELOAD", "")) if other not in ("", library)]
    return {
        "XENSTORED_RUNDIR": str(directory),
        "XENSTORED_PATH": str(directory / "socket"),
        "GXL_SIM_HYPERCALLS": str(directory / "hypercalls"),
        "LD_PRELOAD": ":".join([library, *others]),
    }


@contextmanager
def launch() -> Iterator[tuple[RemoteHost, dict[str, str]]]:
    """A new simulated host for the length of a `with` block, and the environment for programs that are to see it.

    The host's process ends with the block, or with this process, however that ends. OSError: no C compiler.
    """
    with tempfile.TemporaryDirectory(prefix="gxl-sim-") as directory:
        variables = environment(Path(directory))
        process = subprocess.Popen(
            [sys.executable, "-m", "gxl.simhost", directory],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # Ctrl-C at the terminal is for the programs that use the host; it ends when they have.
            start_new_session=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        with process, process.stdin:
            if process.stdout.readline() != b"ready\n":
                raise OSError("the simulated host's process did not start")
            with RemoteHost(directory) as host:
                yield host, variables
