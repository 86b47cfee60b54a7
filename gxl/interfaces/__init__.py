# SPDX-License-Identifier: LGPL-2.1-or-later
"""The contract between gxl's three parties, all of it: what an engine and a hub are, the hooks, the values.

libxl's header has an event producer, an event loop and an application. So has gxl: an **engine** (IEngine) speaks for
Xen, a **hub** (IHub) owns the event loop, and a Context brings the two together and serves the application. Engines
and hubs never meet anywhere else. To write a hub provider, implement IHub and what it hands out; to write an engine,
implement IEngine; `gxl.testing` has the suite that each must pass.

Conventions. Domids are unsigned 32-bit ints, user values unsigned 64-bit ints, fds ints, `events` and `revents`
poll(2) bits. Moments that cross the border to libxl are wall-clock seconds since the epoch, as floats; durations are
seconds as floats, except where a name ends in `_ms` or `_ns`. A malformed argument is a TypeError or ValueError,
raised before anything has changed. zope.interface writes methods without `self`, and checks neither keyword-only
parameters nor annotations: keep to the positional shapes given here.

"The header" is libxl_event.h.
"""

from gxl.interfaces.engine import ICollectedEngine, IEngine, IEvgen, IStoreConnection, ISuccession
from gxl.interfaces.hooks import IChildProcHooks, IEventHooks, IOSEventHooks
from gxl.interfaces.hub import (
    IAwaitableWaiter,
    ICoroutineBinding,
    IEventSink,
    IHub,
    IHubBinding,
    IPolledBinding,
    IPollSource,
    ITurnBinding,
    IWaiter,
)
from gxl.interfaces.values import AsyncHow, DomainInfo, NewDomain, Predicate, SigchldOwner

__all__ = [
    "AsyncHow",
    "DomainInfo",
    "IAwaitableWaiter",
    "IChildProcHooks",
    "ICollectedEngine",
    "ICoroutineBinding",
    "IEngine",
    "IEventHooks",
    "IEventSink",
    "IEvgen",
    "IHub",
    "IHubBinding",
    "IOSEventHooks",
    "IPollSource",
    "IPolledBinding",
    "IStoreConnection",
    "ISuccession",
    "ITurnBinding",
    "IWaiter",
    "NewDomain",
    "Predicate",
    "SigchldOwner",
]
