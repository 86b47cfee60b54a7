# SPDX-License-Identifier: LGPL-2.1-or-later
"""Finds the hub provider: who owns the event loop.

A provider is a factory of an IHub. Others announce theirs by an entry point in the group `gxl.hubhooks`, whose name is
the provider's name and whose value is `module:factory`. gxl's own need no metadata, so they are found in a checkout
and in a frozen application too. Nothing is imported before it has been chosen.
"""

from __future__ import annotations

import inspect
import os
import sys
from importlib.metadata import EntryPoint, entry_points
from typing import NamedTuple

from zope.interface.verify import verifyObject

from gxl.errors import HubUnavailable
from gxl.interfaces import IHub

GROUP = "gxl.hubhooks"

_OWN = (
    EntryPoint("gevent", "gxl.hubhooks.gevent:GeventHub", GROUP),
    EntryPoint("asyncio", "gxl.hubhooks.asyncio:AsyncioHub", GROUP),
    EntryPoint("poll", "gxl.hubhooks.poll:PollHub", GROUP),
)


class Found(NamedTuple):
    """What `survey` says of one provider."""

    name: str
    target: str
    """`module:factory`."""
    origin: str
    """The distribution that brought it."""
    description: str
    """The first line of the factory's docstring; empty if it can't be loaded."""
    version: str
    """What the provider says of itself; empty if it can't be loaded."""
    chosen: str
    """Why `choose` takes it; empty if it does not."""
    problem: str
    """Why it can't be used; empty if it can."""


def choose(name: str | None = None) -> IHub:
    """The provider `name`; None: the one that $GXL_HUB names, or else the one that the running code is made for.

    Raises HubUnavailable if there is no provider of that name, or if it fails to load. A broken provider hurts nobody
    who does not ask for it.
    """
    if name is not None and not isinstance(name, str):
        raise TypeError(f"a hub's name must be a str, not {name!r}")
    return _load(_decide(name)[0])


def survey(name: str | None = None) -> list[Found]:
    """Every known provider, whether it is usable, and which one `choose(name)` takes, and why. Imports all of them."""
    wanted, reason = _decide(name)
    report = []
    for provider in _known().values():
        description = version = problem = ""
        try:
            version = _load(provider.name).version
            description = (inspect.getdoc(provider.load()) or "").partition("\n")[0]
        except HubUnavailable as error:
            problem = str(error)
        chosen = reason if provider.name == wanted else ""
        report.append(Found(provider.name, provider.value, _origin(provider), description, version, chosen, problem))
    return report


def _known() -> dict[str, EntryPoint]:
    known = {provider.name: provider for provider in entry_points(group=GROUP)}
    known.update((provider.name, provider) for provider in _OWN)
    return dict(sorted(known.items()))


def _origin(provider: EntryPoint) -> str:
    return provider.dist.name if provider.dist is not None else "gxl"


def _decide(name: str | None) -> tuple[str, str]:
    if name is not None:
        return name, "asked for by name"
    if name := os.environ.get("GXL_HUB"):
        return name, "$GXL_HUB names it"
    return _detect()


def _detect() -> tuple[str, str]:
    # A loop that nobody has imported isn't running; importing one to ask it would be a side effect.
    monkey = sys.modules.get("gevent.monkey")
    if monkey is not None and monkey.is_anything_patched():
        # First of all: asyncio would say of every greenlet that its loop runs there.
        return "gevent", "gevent has patched this process"
    asyncio = sys.modules.get("asyncio")
    if asyncio is not None and asyncio._get_running_loop() is not None:
        return "asyncio", "an asyncio loop runs here"
    local = sys.modules.get("gevent._hub_local")
    hub = None if local is None else local.get_hub_if_exists()
    # A library may have asked for a hub that the program never uses. A hub is true once it has run.
    if hub is not None and (hub or hub.loop.activecnt or hub.loop._callbacks):
        return "gevent", "this thread runs a gevent hub"
    return "poll", "no event loop was found running: whichever thread waits does the work"


def _load(name: str) -> IHub:
    known = _known()
    provider = known.get(name)
    if provider is None:
        raise HubUnavailable(f"there is no hub provider {name!r}; known are: {', '.join(known)}")
    try:
        hub: IHub = provider.load()()
        verifyObject(IHub, hub)  # which reads its attributes, too
    except (Exception, SystemExit) as error:
        raise HubUnavailable(
            f"the hub provider {name!r} ({provider.value}, from {_origin(provider)}) can't be used: "
            f"{type(error).__name__}: {error}"
        ) from error
    return hub
