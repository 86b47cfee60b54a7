# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who speaks for Xen. Engines are chosen by name, and never silently replaced by another."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import entry_points

from gxl.errors import EngineUnavailable
from gxl.interfaces import IEngine

GROUP = "gxl.engines"
"""The entry point group in which other packages offer engines."""

_OWN = {
    "libxl": "gxl.engines.libxl:LibxlEngine",
    "embedded": "gxl.engines.embedded:EmbeddedEngine",
}


def known() -> dict[str, str]:
    """The engines that can be chosen: name → "module:factory". gxl's own need no installed metadata."""
    return {entry.name: entry.value for entry in entry_points(group=GROUP)} | _OWN


def choose(name: str | None = None) -> Callable[[], IEngine]:
    """The factory of the engine called `name`; None means $GXL_ENGINE, or "libxl" if that is not set.

    Raises EngineUnavailable if there is no engine of that name, or its module can't be imported. Calling the factory
    opens the engine, and raises EngineUnavailable if that can't be done here.
    """
    source = "asked for"
    if name is None:
        name, source = os.environ.get("GXL_ENGINE") or "libxl", "$GXL_ENGINE"
    if not isinstance(name, str):
        raise TypeError(f"an engine is chosen by its name, not by {name!r}")
    engines = known()
    if name not in engines:
        raise EngineUnavailable(f"There is no engine {name!r} ({source}). Known are: {', '.join(sorted(engines))}.")
    module, _, attribute = engines[name].partition(":")
    try:
        factory: Callable[[], IEngine] = getattr(import_module(module), attribute)
    except (Exception, SystemExit) as error:
        raise EngineUnavailable(
            f"The engine {name!r} can't be loaded.", ((engines[name], f"{type(error).__name__}: {error}"),)
        ) from error
    return factory
