# SPDX-License-Identifier: LGPL-2.1-or-later
"""gxl.watch: watching with a Context of its own, for whoever needs it for nothing else."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self
from uuid import UUID

from gxl.context import Context
from gxl.errors import GxlError, MisuseError
from gxl.events import Event
from gxl.interfaces import IEngine, IHub
from gxl.opening import Engine
from gxl.watcher import Kind, Settings, Watcher


class OwnWatcher:
    """A Watcher with a Context of its own: made by gxl.watch. Close it, unless it is iterated to its end."""

    # Nothing that the loop refers to may refer to this: so when it is dropped too early, its Context is, and warns.

    def __init__(self, ctx: Context, watcher: Watcher) -> None:
        self._ctx = ctx
        self._watcher = watcher

    @property
    def lost(self) -> int:
        """How many events were dropped."""
        return self._watcher.lost

    def close(self) -> None:
        """Stop watching, and close the Context. Idempotent."""
        self._ctx.close()

    async def aclose(self) -> None:
        """close(), where the loop runs coroutines; `async with` does it, too."""
        await self._ctx.aclose()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        try:
            return next(self._watcher)
        except MisuseError:
            raise
        except (StopIteration, GxlError, LookupError):
            self.close()
            raise

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        """The next event, where the loop runs coroutines."""
        try:
            return await anext(self._watcher)
        except MisuseError:
            raise
        except (StopAsyncIteration, GxlError, LookupError):
            await self.aclose()
            raise

    def __enter__(self) -> Self:
        self._ctx.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        """Returns once it watches. Raises LookupError if a name meant no domain, or several."""
        try:
            await self._watcher.__aenter__()
        except (GxlError, LookupError):
            await self.aclose()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()


def watch(
    *domains: int | str | UUID,
    types: Kind | Iterable[Kind] | None = None,
    timeout: float | None = None,
    maxlen: int = 1000,
    overflow: str = "drop_newest",
    engine: Engine | None = None,
    hub: str | IHub | None = None,
    recover: bool | None = None,
) -> OwnWatcher:
    """Context.watch in a Context of its own, which is opened here and closed when the iteration ends.

    `for event in gxl.watch(): …` is the same in a greenlet, in a thread and in the main program; in a coroutine it is
    `async for`. Whoever may leave the loop before its end writes `with gxl.watch() as events: for event in events: …`
    (`async with`), which closes the Context at the end of the block. See Context.watch for what is watched and how, and
    Context for `engine` and `hub`, and for what is raised if there is none.

    `recover`: when xenstored or libxl is lost, open another libxl_ctx and go on, after a Resynced event. None: where
    that can be done, which is whenever `engine` is not an object.
    """
    Settings.checked(types, timeout, maxlen, overflow)
    ctx = Context(engine, hub, recover=not IEngine.providedBy(engine) if recover is None else recover)
    try:
        return OwnWatcher(ctx, ctx.watch(*domains, types=types, timeout=timeout, maxlen=maxlen, overflow=overflow))
    except BaseException:
        ctx.drop()
        raise
