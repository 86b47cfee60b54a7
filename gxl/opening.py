# SPDX-License-Identifier: LGPL-2.1-or-later
"""The engine of a Context: given as an object, or opened here, and closed again if no Context comes of it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from gxl import engines
from gxl.errors import MisuseError
from gxl.interfaces import IEngine

Engine = str | IEngine | Callable[[], IEngine]
"""How an application says which engine it wants."""


class Opening:
    """What Context(engine=…, recover=…) says of its engine. A context manager that returns the engine.

    Raises ValueError where an engine is to be replaceable that was made by somebody else.
    """

    def __init__(self, engine: Engine | None, recover: bool) -> None:
        self._wanted = engine
        self._given = IEngine.providedBy(engine)
        self._engine: IEngine | None = None
        if recover and self._given:
            raise ValueError(
                "recover=True needs an engine that can be opened anew: a name, or a callable that opens one, not the "
                f"object {engine!r}"
            )

    def __enter__(self) -> IEngine:
        wanted: Any = self._wanted
        self._engine = engines.provide(wanted() if callable(wanted) and not self._given else wanted)
        return self._engine

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        if kind is not None and not self._given and self._engine is not None:
            # Refused if the pump got as far as taking the engine over; then it has freed it.
            with contextlib.suppress(MisuseError):
                self._engine.ctx_free()
