# SPDX-License-Identifier: LGPL-2.1-or-later
"""What can be chosen by name, whether it is gxl's own or brought by another package, and what is wrong with it.

Other packages announce what they offer by entry points, which importlib.metadata reads from a file of each installed
distribution. Here each is read by itself: to importlib's own entry_points() one file that can't be read is the end of
the search, whoever's it is.

gxl's own need no metadata. They are named by import statements, which a checkout on the path satisfies as well as an
installed package, and which the tools that freeze an application can see.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import Distribution, EntryPoint, distributions
from typing import Any, NamedTuple

from gxl.errors import GxlError


class Plugin(NamedTuple):
    """What one distribution offers under one name."""

    name: str
    target: str
    """`module:factory`."""
    origin: str
    """The distribution that brings it."""
    load: Callable[[], Any]
    """Imports the module, and returns the factory."""

    def __str__(self) -> str:
        return f"{self.name!r} ({self.target}, from {self.origin})"


class Found(NamedTuple):
    """What a survey says of one plugin."""

    name: str
    target: str
    """`module:factory`."""
    origin: str
    """The distribution that brings it."""
    description: str
    """The first line of the factory's docstring; empty if it can't be loaded."""
    version: str
    """What it says of itself; empty if it can't be used."""
    chosen: str
    """Why it is taken; empty if it is not."""
    problem: str
    """Why it can't be used; empty if it can."""


class Plugins:
    """All that can be chosen by name in one entry point group; gxl's own come first, and keep their names."""

    def __init__(self, group: str, *own: Plugin) -> None:
        self._group = group
        self._own = {plugin.name: plugin for plugin in own}

    def all(self) -> list[Plugin]:
        """Every one of them, also those whose name another has."""
        others = [plugin for plugin in self._others() if plugin[:2] not in {own[:2] for own in self._own.values()}]
        return sorted([*self._own.values(), *others], key=lambda plugin: plugin.name)

    def get(self, name: str) -> Plugin:
        """The one of this name. LookupError, which says why not, if there is none, or if it can't be told which."""
        if name in self._own:
            return self._own[name]
        plugins = self.all()
        found = [plugin for plugin in plugins if plugin.name == name]
        if len(found) == 1:
            return found[0]
        if found:
            raise LookupError(f"several packages offer {', '.join(map(str, found))}: it can't be told which is meant")
        known = f"known are: {', '.join(sorted({plugin.name for plugin in plugins}))}"
        raise LookupError("; ".join([known, *map(_excuse, unreadable().items())]))

    def survey(self, version: Callable[[Plugin], str], wanted: str, reason: str) -> list[Found]:
        """All of them, tried out: `version(plugin)` uses one and returns what it is, or raises GxlError."""
        report = []
        for plugin in self.all():
            description = chosen = said = problem = ""
            try:
                if self.get(plugin.name)[:3] != plugin[:3]:
                    problem = f"{plugin} can't be chosen: gxl's own has that name"
                else:
                    chosen = reason if plugin.name == wanted else ""
                    said = version(plugin)
                    description = (inspect.getdoc(plugin.load()) or "").partition("\n")[0]
            except (GxlError, LookupError) as error:
                problem = str(error)
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # a panic of an extension in Rust is no Exception
                problem = describe(error)
            report.append(Found(plugin.name, plugin.target, plugin.origin, description, said, chosen, problem))
        return report

    def _others(self) -> Iterator[Plugin]:
        for origin, entries in _announced():
            if not isinstance(entries, Exception):
                for entry in entries:
                    if entry.group == self._group:
                        yield Plugin(entry.name, entry.value, origin, functools.partial(_load, entry))


def describe(error: BaseException) -> str:
    """What an error of somebody else's says, with its type. Where it can't say anything, its type."""
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:
        return type(error).__name__


def unreadable() -> dict[str, str]:
    """The installed distributions whose entry points can't be read, by name, with the reason.

    Whether they would have offered anything is not known.
    """
    return {origin: describe(entries) for origin, entries in _announced() if isinstance(entries, Exception)}


def _announced() -> Iterator[tuple[str, Sequence[EntryPoint] | Exception]]:
    """The name of each installed distribution that has entry points, and these, or why they can't be read."""
    seen = set()
    for distribution in distributions():
        entries: Sequence[EntryPoint] | Exception
        try:
            entries = tuple(distribution.entry_points)
        except Exception as error:
            entries = error
        if entries:
            origin = _name_of(distribution)
            key = re.sub(r"[-_.]+", "-", origin).lower()
            if key not in seen:  # the first on the path is the one that Python imports
                seen.add(key)
                yield origin, entries


def _load(entry: EntryPoint) -> Any:
    if not EntryPoint.pattern.match(entry.value):  # importlib says that a 'NoneType' has no attribute 'group'
        raise ValueError(f"an entry point is written as module:factory, not as {entry.value!r}")
    return entry.load()


def _name_of(distribution: Distribution) -> str:
    try:
        name: str | None = distribution.metadata["Name"]
    except Exception:
        name = None
    return name or f"a package without a name in {distribution.locate_file('')}"


def _excuse(broken: tuple[str, str]) -> str:
    return f"the entry points of {broken[0]} can't be read ({broken[1]})"
