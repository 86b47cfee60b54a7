# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where a scenario runs: a simulated host, and Contexts of one engine on it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gxl
from gxl.interfaces import IEngine

ENGINES = ("embedded", "libxl")


class Place:
    """A host, and how an engine sees it."""

    def __init__(self, engine: str, host: Any, make_engine: Callable[[], IEngine]) -> None:
        self.engine = engine
        self.host = host
        self._make_engine = make_engine

    def open(self, recover: bool = False) -> gxl.Context:
        """A Context at gevent's hub, for the scenario to close."""
        return gxl.Context(engine=self._make_engine if recover else self._make_engine(), hub="gevent", recover=recover)


@contextmanager
def place(engine: str) -> Iterator[Place]:
    """A host of its own. For "libxl" the simulated host's library has to be preloaded into this process."""
    if engine == "embedded":
        from gxl.engines.embedded import EmbeddedEngine

        with gxl.SimHost() as host:
            yield Place(engine, host, lambda: EmbeddedEngine(host))
        return
    from gxl.engines.libxl import LibxlEngine
    from gxl.simhost.launch import launch

    with launch() as (served, variables):
        os.environ.update(variables)
        yield Place(engine, served, LibxlEngine)
