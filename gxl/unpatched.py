# SPDX-License-Identifier: LGPL-2.1-or-later
"""Modules of C as they are, whoever has patched them: gevent makes select.poll switch greenlets, for one."""

from __future__ import annotations

import importlib.util
from types import ModuleType
from typing import Any


def unpatched(name: str) -> Any:
    """Another instance of a module that is nothing but C, with nothing replaced in it."""
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.loader is not None
    module: ModuleType = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
