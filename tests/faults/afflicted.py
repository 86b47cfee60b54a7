# SPDX-License-Identifier: LGPL-2.1-or-later
"""Programs of their own: for faults that end a process, or that have to be there before it begins."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from requirements import Requirements

from gxl.simhost.remote import RemoteHost

HERE = Path(__file__).parent


def shims(require: Requirements, directory: Path) -> str:
    """The library that is made of shims.c."""
    library = directory / "shims.so"
    if not library.exists():
        compiler = require.program("gcc")
        # Its malloc must not be compiled into a call of itself.
        arguments = ["-shared", "-fPIC", "-O1", "-fno-builtin", "-o", str(library), str(HERE / "shims.c")]
        subprocess.run([compiler, *arguments], check=True)
    return str(library)


def run(
    program: str,
    served: tuple[RemoteHost, dict[str, str]],
    *arguments: str,
    wrap: tuple[str, ...] = (),
    preload: str = "",
    seconds: float = 60,
    **variables: str,
) -> subprocess.CompletedProcess[str]:
    """Run a program, in text, that sees the simulated host. It has `engine()`, which makes the engine of arguments[0].

    The embedded engine gets a host of its own, called `host` there; the real library sees the served one, and `host`
    acts on that.
    """
    host, environment = served
    host.reset()
    libraries = " ".join(filter(None, (preload, environment.get("LD_PRELOAD", os.environ.get("LD_PRELOAD", "")))))
    return subprocess.run(
        [*wrap, sys.executable, "-c", PROLOGUE + program, *arguments],
        env=os.environ | environment | {"LD_PRELOAD": libraries} | variables,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
        start_new_session=True,
    )


PROLOGUE = """
import ctypes, os, signal, sys, time
import gevent
import gxl
from gxl.engines.embedded import EmbeddedEngine
from gxl.engines.libxl import LibxlEngine
from gxl.simhost.remote import RemoteHost

if sys.argv[1] == "embedded":
    host = gxl.SimHost()
    engine = lambda: EmbeddedEngine(host)
else:
    host = RemoteHost(os.environ["XENSTORED_RUNDIR"])
    engine = LibxlEngine

def open_context():
    return gxl.Context(engine=engine(), hub="gevent")
"""
