# SPDX-License-Identifier: LGPL-2.1-or-later
"""Everything gxl raises on its own account. Bad arguments are the built-in TypeError and ValueError.

libxl reports failure as a negative int. Each of its codes has a class here, so that a caller can catch the one it can
handle; the table is libxl_types.idl's, the same from Xen 4.14 to 4.22. A positive code is the application's own: an
osevent hook failed with it, and libxl passed it through unchanged.

Each keeps its constructor's arguments as `args`, so that it survives pickling on its way out of a worker process.
"""

from __future__ import annotations

import errno
import os
from typing import ClassVar, Self


class GxlError(Exception):
    """The root of every error that gxl defines."""


class LibxlError(GxlError):
    """A libxl call, or an operation that it started, failed with `rc`."""

    code: ClassVar[int] = 0

    def __init__(self, rc: int | None = None, message: str = "") -> None:
        self.rc = type(self).code if rc is None else rc
        super().__init__(self.rc, message or f"libxl error {self.rc} ({describe(self.rc)})")

    def __str__(self) -> str:
        return str(self.args[1])


class Nonspecific(LibxlError):
    code = -1


class Version(LibxlError):
    code = -2


class Fail(LibxlError):
    code = -3


class NotImplementedByLibxl(LibxlError):
    code = -4


class NoMem(LibxlError):
    code = -5


class Inval(LibxlError):
    code = -6


class BadFail(LibxlError):
    code = -7


class GuestTimedOut(LibxlError):
    code = -8


class TimedOut(LibxlError):
    code = -9


class NoParavirt(LibxlError):
    code = -10


class NotReady(LibxlError):
    code = -11


class OSEventRegFail(LibxlError):
    """An fd or timeout could not be registered with the event loop.

    A hook of IOSEventHooks raises it to fail with a positive code of its own; any other exception counts as -12. The
    engine call that needed the registration raises it with that code. The header: "It may then either return
    ERROR_OSEVENT_REG_FAIL or any positive int."
    """

    code = -12

    def __init__(self, rc: int = -12, message: str = "") -> None:
        if isinstance(rc, bool) or not isinstance(rc, int):
            raise TypeError(f"rc must be an int, not {rc!r}")
        if rc != -12 and not 0 < rc < 2**31:
            raise ValueError(f"rc must be -12 or a positive C int, not {rc!r}")
        super().__init__(rc, message)


class BufferFull(LibxlError):
    code = -13


class UnknownChild(LibxlError):
    code = -14


class LockFail(LibxlError):
    code = -15


class JSONConfigEmpty(LibxlError):
    code = -16


class DeviceExists(LibxlError):
    code = -17


class CheckpointDevopsDoesNotMatch(LibxlError):
    code = -18


class CheckpointDeviceNotSupported(LibxlError):
    code = -19


class VNUMAConfigInvalid(LibxlError):
    code = -20


class DomainNotFound(LibxlError):
    code = -21


class Aborted(LibxlError):
    code = -22


class NotFound(LibxlError):
    code = -23


class DomainDestroyed(LibxlError):
    code = -24


class FeatureRemoved(LibxlError):
    code = -25


class ProtocolErrorQMP(LibxlError):
    code = -26


class UnknownQMPError(LibxlError):
    code = -27


class QMPGenericError(LibxlError):
    code = -28


class QMPCommandNotFound(LibxlError):
    code = -29


class QMPDeviceNotActive(LibxlError):
    code = -30


class QMPDeviceNotFound(LibxlError):
    code = -31


class QEMUAPI(LibxlError):
    code = -32


BY_CODE: dict[int, type[LibxlError]] = {cls.code: cls for cls in LibxlError.__subclasses__()}


def describe(rc: int) -> str:
    """A few words for `rc`, for messages."""
    if rc > 0:
        return "a code of an osevent hook's own"
    cls = BY_CODE.get(rc)
    return cls.__name__ if cls is not None else "not a code that gxl knows"


def from_rc(rc: int, doing: str = "") -> LibxlError:
    """The exception for a non-zero `rc` that libxl returned, `doing` being the call that failed."""
    cls = OSEventRegFail if rc > 0 else BY_CODE.get(rc, LibxlError)
    return cls(rc, f"{doing}: libxl error {rc} ({describe(rc)})" if doing else "")


class MisuseError(GxlError):
    """The call would break a rule whose breach makes libxl abort the process, hang or corrupt itself.

    Nothing was done. The message says which rule, and what to do instead.
    """


class EngineUnavailable(GxlError):
    """No engine could be opened. `attempts` holds a (what, why not) pair for each that was tried."""

    def __init__(self, message: str, attempts: tuple[tuple[str, str], ...] = ()) -> None:
        self.attempts = attempts
        super().__init__(message, attempts)

    def __str__(self) -> str:
        return "\n".join([str(self.args[0]), *(f"  {what}: {why}" for what, why in self.attempts)])


class HubUnavailable(GxlError, ValueError):
    """There is no hub provider of that name, or it can't be loaded; the message says which are known, or why."""


class ContextClosed(GxlError):
    """The Context was closed, before the call or while it waited."""


class Disaster(GxlError):
    """libxl reported that events may be missing, or gxl found that its connection to Xen is dead.

    `type` is the EventType that is affected, 0 meaning all of them; `errnoval` is the errno of what failed, or 0. The
    header: "This will not happen for frivolous reasons - only if the system, or the Xen components of it, are badly
    broken."
    """

    def __init__(self, type: int, message: str, errnoval: int = 0) -> None:
        self.type = type
        self.message = message
        self.errnoval = errnoval
        super().__init__(type, message, errnoval)

    def __str__(self) -> str:
        if not self.errnoval:
            return self.message
        name = errno.errorcode.get(self.errnoval, str(self.errnoval))
        return f"{self.message} ({name}: {os.strerror(self.errnoval)})"

    def again(self) -> Self:
        """The same disaster as a new exception: one that several greenlets raise would mix up their tracebacks."""
        return type(self)(self.type, self.message, self.errnoval)


class Outage(Disaster):
    """The connection to Xen is lost, and this Context is about to open another: nothing was done, try again later.

    Only where it was made with recover=True. A Resynced event says when the outage is over.
    """


class WaitTimeout(GxlError, TimeoutError):
    """A wait ended because its own `timeout` ran out. Whatever was waited for may still come."""
