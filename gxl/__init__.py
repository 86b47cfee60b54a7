# SPDX-License-Identifier: LGPL-2.1-or-later
"""libxl's domain events for cooperative programs. What an application imports is here."""

from gxl.context import Context
from gxl.domains import Domain
from gxl.errors import (
    ContextClosed,
    Disaster,
    EngineUnavailable,
    GxlError,
    HubUnavailable,
    LibxlError,
    MisuseError,
    OSEventRegFail,
    Outage,
    WaitTimeout,
)
from gxl.events import (
    EVENTMASK_ALL,
    DiskEject,
    DomainCreateConsoleAvailable,
    DomainDeath,
    DomainShutdown,
    Event,
    EventsLost,
    EventType,
    OperationComplete,
    Resynced,
    ShutdownReason,
    UnknownEvent,
    from_json,
    mask,
)
from gxl.interfaces import AsyncHow, SigchldOwner
from gxl.metrics import Metrics
from gxl.operations import Operation
from gxl.simhost import SimHost
from gxl.watcher import Watcher
from gxl.watching import watch

__all__ = [
    "watch",
    "Watcher",
    "Context",
    "Domain",
    "Event",
    "EventType",
    "DomainShutdown",
    "DomainDeath",
    "DiskEject",
    "OperationComplete",
    "DomainCreateConsoleAvailable",
    "Resynced",
    "EventsLost",
    "UnknownEvent",
    "ShutdownReason",
    "EVENTMASK_ALL",
    "from_json",
    "mask",
    "Metrics",
    "AsyncHow",
    "Operation",
    "SigchldOwner",
    "SimHost",
    "GxlError",
    "LibxlError",
    "OSEventRegFail",
    "MisuseError",
    "EngineUnavailable",
    "HubUnavailable",
    "ContextClosed",
    "Disaster",
    "Outage",
    "WaitTimeout",
]
