# SPDX-License-Identifier: LGPL-2.1-or-later
"""Starts pytest anew with the simulated host's library preloaded, so that libxenlight can run in the tests' process."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from gxl.simhost import preload


def why_not() -> str:
    """Why the real libxenlight can't run on a simulated host in this process; empty if it can."""
    if _on_xen():
        return "this is a real Xen host, which the simulated one would hide"
    try:
        library = str(preload.library())
    except OSError as error:
        return f"the preload library can't be built: {error}"
    return "" if library in os.environ.get("LD_PRELOAD", "") else "the simulated host's library is not preloaded"


def preload_once(config: pytest.Config) -> None:
    """Replace this process by the same pytest with the library preloaded, unless it is there or can't be."""
    if os.environ.get("GXL_TESTS_PRELOADED") or _on_xen():
        return
    try:
        library = preload.library()
    except OSError:
        return
    # What pytest captured so far lives in this process, and its capturing holds the real stdout.
    config.pluginmanager.getplugin("capturemanager").stop_global_capturing()
    sys.stdout.flush()
    environment = os.environ | {"LD_PRELOAD": str(library), "GXL_TESTS_PRELOADED": "1"}
    os.execve(sys.executable, [sys.executable, "-m", "pytest", *config.invocation_params.args], environment)


def _on_xen() -> bool:
    capabilities = Path("/proc/xen/capabilities")
    return capabilities.exists() and "control_d" in capabilities.read_text()
