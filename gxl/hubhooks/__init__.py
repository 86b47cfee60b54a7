# SPDX-License-Identifier: LGPL-2.1-or-later
"""Finds the hub provider: who owns the event loop.

A provider is a factory of an IHub. Others announce theirs by an entry point in the group `gxl.hubhooks`, whose name is
the provider's name and whose value is `module:factory`. gxl's own need no metadata. Nothing is imported before it has
been chosen, and what is wrong with a package hurts nobody who does not ask for what it offers.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from zope.interface.verify import verifyObject

from gxl.errors import GxlError, HubUnavailable
from gxl.interfaces import IEventSink, IHub, IHubBinding
from gxl.plugins import Found, Plugin, Plugins, describe

GROUP = "gxl.hubhooks"


def _gevent() -> Any:
    from gxl.hubhooks.gevent import GeventHub

    return GeventHub


def _asyncio() -> Any:
    from gxl.hubhooks.asyncio import AsyncioHub

    return AsyncioHub


def _poll() -> Any:
    from gxl.hubhooks.poll import PollHub

    return PollHub


_plugins = Plugins(
    GROUP,
    Plugin("gevent", "gxl.hubhooks.gevent:GeventHub", "gxl", _gevent),
    Plugin("asyncio", "gxl.hubhooks.asyncio:AsyncioHub", "gxl", _asyncio),
    Plugin("poll", "gxl.hubhooks.poll:PollHub", "gxl", _poll),
)


def choose(name: str | None = None) -> IHub:
    """The provider `name`; None: the one that $GXL_HUB names, or else the one that the running code is made for.

    Raises HubUnavailable if there is no provider of that name, or if it fails to load. A broken provider hurts nobody
    who does not ask for it.
    """
    if name is not None and not isinstance(name, str):
        raise TypeError(f"a hub's name must be a str, not {name!r}")
    name = _decide(name)[0]
    try:
        return _open(_plugins.get(name))
    except LookupError as error:
        raise HubUnavailable(f"there is no hub provider {name!r}: {error}") from None


def provide(hub: str | IHub | None) -> IHub:
    """`hub` itself, if it is one, or the one that `choose` takes. TypeError if it is neither a hub nor a name."""
    if hub is None or isinstance(hub, str):
        return choose(hub)
    if not IHub.providedBy(hub):
        raise TypeError(f"a hub is a provider's name or an object that provides IHub, not {hub!r}")
    return hub


def attach(hub: IHub, sink: IEventSink) -> IHubBinding:
    """`hub.attach(sink)`, with an error that names the provider if it fails in a way of its own."""
    try:
        binding = hub.attach(sink)
    except GxlError:
        raise
    except (Exception, SystemExit) as error:
        raise HubUnavailable(f"the hub {hub.name!r} can't be used here: {describe(error)}") from error
    if not IHubBinding.providedBy(binding):
        raise HubUnavailable(f"the hub {hub.name!r} can't be used: its attach() returned {binding!r}, no IHubBinding")
    return binding


def survey(name: str | None = None) -> list[Found]:
    """Every known provider, whether it is usable, and which one `choose(name)` takes, and why. Imports all of them."""
    wanted, reason = _decide(name)
    return _plugins.survey(lambda plugin: str(_open(plugin).version), wanted, reason)


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
    if hub is not None and (hub or _has_work(hub.loop)):
        return "gevent", "this thread runs a gevent hub"
    return "poll", "no event loop was found running: whichever thread waits does the work"


def _has_work(loop: Any) -> bool:
    if loop._callbacks or loop.activecnt:
        return True
    # On libuv, activecnt is always 0; only there is a way to see all handles, the loop's own among them.
    return hasattr(loop, "debug") and any(handle.ref and handle.active for handle in loop.debug())


def _open(plugin: Plugin) -> IHub:
    try:
        hub: IHub = plugin.load()()
        verifyObject(IHub, hub)  # which reads its attributes, too
    except (Exception, SystemExit) as error:
        raise HubUnavailable(f"the hub provider {plugin} can't be used: {describe(error)}") from error
    return hub
