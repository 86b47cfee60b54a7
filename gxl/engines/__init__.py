# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who speaks for Xen. Engines are chosen by name, and never silently replaced by another."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from gxl.errors import EngineUnavailable, GxlError
from gxl.interfaces import IEngine
from gxl.plugins import Found, Plugin, Plugins, describe

GROUP = "gxl.engines"
"""The entry point group in which other packages offer engines."""


def _libxl() -> Any:
    from gxl.engines.libxl import LibxlEngine

    return LibxlEngine


def _embedded() -> Any:
    from gxl.engines.embedded import EmbeddedEngine

    return EmbeddedEngine


_plugins = Plugins(
    GROUP,
    Plugin("libxl", "gxl.engines.libxl:LibxlEngine", "gxl", _libxl),
    Plugin("embedded", "gxl.engines.embedded:EmbeddedEngine", "gxl", _embedded),
)


def choose(name: str | None = None) -> Callable[[], IEngine]:
    """The factory of the engine called `name`; None means $GXL_ENGINE, or "libxl" if that is not set.

    Raises EngineUnavailable if there is no engine of that name, or its module can't be imported. Calling the factory
    opens the engine, and raises EngineUnavailable if that can't be done here.
    """
    return _load(_get(name))


def provide(engine: str | IEngine | None) -> IEngine:
    """`engine` itself, if it is one, or a new one of that name, as `choose` has it. TypeError if it is neither."""
    if engine is None or isinstance(engine, str):
        return _open(_get(engine))
    if not IEngine.providedBy(engine):
        raise TypeError(f"an engine is a name or an object that provides IEngine, not {engine!r}")
    return engine


def survey(name: str | None = None) -> list[Found]:
    """Every known engine, whether it can be opened here, and which one `choose(name)` takes, and why."""

    def version(plugin: Plugin) -> str:
        engine = _open(plugin)
        said = str(engine.version)
        engine.ctx_free()
        return said

    wanted, reason = _decide(name)
    return _plugins.survey(version, wanted, reason)


def _decide(name: str | None) -> tuple[str, str]:
    if name is not None:
        return name, "asked for by name"
    if name := os.environ.get("GXL_ENGINE"):
        return name, "$GXL_ENGINE names it"
    return "libxl", "$GXL_ENGINE is not set, and it is the default"


def _get(name: str | None) -> Plugin:
    if name is not None and not isinstance(name, str):
        raise TypeError(f"an engine is chosen by its name, not by {name!r}")
    wanted, reason = _decide(name)
    try:
        return _plugins.get(wanted)
    except LookupError as error:
        raise EngineUnavailable(f"there is no engine {wanted!r} ({reason}): {error}") from None


def _load(plugin: Plugin) -> Callable[[], IEngine]:
    try:
        factory: Callable[[], IEngine] = plugin.load()
    except (Exception, SystemExit) as error:
        raise _unusable(plugin, "loaded", error) from error
    return factory


def _open(plugin: Plugin) -> IEngine:
    factory = _load(plugin)
    try:
        engine = factory()
    except GxlError:
        raise
    except (Exception, SystemExit) as error:
        raise _unusable(plugin, "opened", error) from error
    if not IEngine.providedBy(engine):
        raise _unusable(plugin, "used", TypeError(f"its factory returned {engine!r}, which provides no IEngine"))
    return engine


def _unusable(plugin: Plugin, verb: str, error: BaseException) -> EngineUnavailable:
    attempt = f"{plugin.target}, from {plugin.origin}", describe(error)
    return EngineUnavailable(f"the engine {plugin.name!r} can't be {verb}", (attempt,))
