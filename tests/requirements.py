# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a test can't do without: programs, libraries, modules, files."""

from __future__ import annotations

import ctypes.util
import importlib
import os
import shutil
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
