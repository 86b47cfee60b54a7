# SPDX-License-Identifier: LGPL-2.1-or-later
"""What every test may ask for: the things it can't do without, and a look at what it leaves behind."""

from __future__ import annotations

import ctypes.util
import importlib
import os
import shutil
import threading
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import NoReturn

import pytest


class Requirements:
    """Skips a test whose surroundings lack something. Where $CI is set, everything must be there, and it fails."""

    def missing(self, what: str) -> NoReturn:
        """The test can't run here, since there is no `what`."""
        if os.environ.get("CI"):
            pytest.fail(f"{what} is missing, and $CI says that everything is here", pytrace=False)
        pytest.skip(f"{what} is missing")

    def program(self, name: str) -> str:
        """The path of the program `name`."""
        # Debian keeps the tools of an administrator where a user's $PATH does not look.
        search = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
        return shutil.which(name, path=search) or self.missing(f"the program {name}")

    def library(self, name: str) -> str:
        """The file name of the shared library `name`, given without `lib` and `.so`."""
        return ctypes.util.find_library(name) or self.missing(f"the library lib{name}")

    def module(self, name: str) -> ModuleType:
        """The Python module `name`."""
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError:
            self.missing(f"the Python module {name}")

    def file(self, path: str | Path) -> Path:
        """`path`, which exists."""
        found = Path(path)
        return found if found.exists() else self.missing(str(found))


@pytest.fixture(scope="session")
def require() -> Requirements:
    """Asks for what a test can't do without: `require.library("xenlight")`, `require.program("gcc")`, …"""
    return Requirements()


def _possessions() -> dict[str, str]:
    """This process's open fds and native threads, with what each is."""
    held = {}
    for fd in os.listdir("/proc/self/fd"):
        try:
            held[f"fd {fd}"] = os.readlink(f"/proc/self/fd/{fd}")
        except FileNotFoundError:  # the fd that listed the directory
            continue
    names = {str(thread.native_id): thread.name for thread in threading.enumerate()}
    for task in os.listdir("/proc/self/task"):
        held[f"thread {task}"] = names.get(task, "not Python's")
    return held


@pytest.fixture
def leaves_nothing() -> Iterator[None]:
    """Fails a test that ends with fds or threads that it did not begin with.

    Ask for it before the fixtures that must clean up. A gevent hub keeps the fds that it opens when it is first used.
    """
    before = _possessions()
    yield
    left = {what: name for what, name in _possessions().items() if before.get(what) != name}
    assert not left, f"left behind: {left}"


def pytest_report_header() -> str:
    """What this run is about, as a bug report would need it."""
    engine = os.environ.get("GXL_ENGINE", "each test's own")
    loop = os.environ.get("GEVENT_LOOP", "gevent's default")
    library = ctypes.util.find_library("xenlight") or "none"
    return f"gxl: engine {engine}; libxenlight {library}; gevent {version('gevent')}, loop {loop}"
