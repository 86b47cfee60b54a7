# SPDX-License-Identifier: LGPL-2.1-or-later
"""libxl's asynchronous operations, as far as a simulated host needs them."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable

from gxl.engines.embedded import native
from gxl.engines.embedded.children import Children
from gxl.engines.embedded.core import Core, raise_all
from gxl.engines.embedded.store import Store
from gxl.errors import Aborted, DomainNotFound, Fail, NotFound, from_rc
from gxl.events import OperationComplete
from gxl.interfaces import AsyncHow
from gxl.simhost import SimHost

_ACKNOWLEDGE_SECONDS = 60.0
# What the child that destroys a domain can say: an errno, as far as one fits into an exit status beside the shell's.
_ERRNO_LIMIT = 126
_DIFFICULT = 255


class Operation:
    """One operation under way (libxl's ao)."""

    __slots__ = ("aborting", "domid", "how", "rc", "stop")

    def __init__(self, domid: int, how: AsyncHow | None) -> None:
        self.domid = domid
        self.how = how
        self.rc: int | None = None
        self.aborting = False
        self.stop: Callable[[int], None] | None = None
        """Ends it early with this code. None: it can't be ended early."""


class Operations:
    """The operations of one engine."""

    def __init__(self, core: Core, store: Store, host: SimHost, children: Children) -> None:
        self.core = core
        self.store = store
        self.host = host
        self.hypercalls = host.hypercalls
        self.children = children
        self._in_progress: dict[Operation, None] = {}

    def __bool__(self) -> bool:
        return bool(self._in_progress)

    def run(self, begin: Callable[[Operation], None], domid: int, how: AsyncHow | None) -> None:
        """Start an operation, and if `how` is None wait for its end. What `begin` raises, has kept it from starting."""
        operation = Operation(domid, how)
        with self.core.enter():
            self._in_progress[operation] = None
            try:
                begin(operation)
            except BaseException:
                self._in_progress.pop(operation, None)
                raise
        if how is None:
            errors: list[Exception] = []
            rc = self.core.run_until(lambda: operation.rc, errors)
            raise_all([*([from_rc(rc)] if rc else []), *errors])

    def abort(self, how: AsyncHow) -> None:
        for operation in reversed(self._in_progress):
            if operation.how is how:
                break
        else:
            raise NotFound(message="no operation that was started with this AsyncHow is in progress")
        if operation.aborting:
            raise Aborted(message="this operation has been asked to stop already")
        operation.aborting = True
        if operation.stop is not None:
            operation.stop(Aborted.code)

    def fail_all(self) -> None:
        """The engine is dead: nothing will ever complete any more."""
        for operation in list(self._in_progress):
            if operation.stop is not None:
                operation.stop(Fail.code)
            # One that a child does would have ended when that is reaped.
            self.complete(operation, Fail.code)
        self.children.abandon()

    def pause(self, operation: Operation) -> None:
        try:
            self.hypercalls.pausedomain(operation.domid)
        except OSError as error:
            raise Fail(message=f"xc_domain_pause failed: {error}") from error
        self.complete(operation, 0)

    def unpause(self, operation: Operation) -> None:
        try:
            self.hypercalls.unpausedomain(operation.domid)
        except OSError as error:
            self.say(f"xc_domain_unpause failed: {error}")
            self.complete(operation, Fail.code)
        else:
            self.complete(operation, 0)

    def shut_down(self, operation: Operation) -> None:
        self.request(operation, b"poweroff", lambda rc: self.complete(operation, rc))

    def reboot(self, operation: Operation) -> None:
        self.request(operation, b"reboot", lambda rc: self.complete(operation, rc))

    def destroy(self, operation: Operation) -> None:
        stub_domain = self.store.stub_domain(operation.domid)
        domids = [stub_domain, operation.domid] if stub_domain else [operation.domid]
        found = {domid: self._look_up(domid) for domid in domids}
        if not all(found.values()):
            self.children.prepare(operation.how is None)
        results: list[int] = []

        def done(rc: int) -> None:
            results.append(rc)
            if len(results) == len(domids):
                # Of two failures the later one is reported.
                self.complete(operation, next((rc for rc in reversed(results) if rc), 0))

        for domid, rc in found.items():
            if rc:
                done(rc)
            else:
                self._destroy(domid, done)

    def complete(self, operation: Operation, rc: int) -> None:
        """It has ended so."""
        # A child of an engine that died may still be reported.
        if operation not in self._in_progress:
            return
        del self._in_progress[operation]
        operation.rc = rc
        how = operation.how
        if how is None:
            self.core.osevents.wake_waiting()
        elif how.callback is not None:
            self.core.completed(how.callback, rc)
        else:
            self.core.occurred(OperationComplete(operation.domid, rc, for_user=how.for_event))

    def request(self, operation: Operation, command: bytes, then: Callable[[int], object]) -> None:
        """Write what the guest shall do, and wait until it has taken note of it by clearing that node."""
        if rc := self._look_up(operation.domid):
            raise Fail(message=f"domain {operation.domid} can't be asked to {command.decode()}: {from_rc(rc)}")
        node = b"/local/domain/%d/control/shutdown" % operation.domid
        try:
            self.store.write(node, command)
        except OSError as error:
            raise Fail(message=f"xenstored refused to write {command!r} to {node!r}: {error}") from error

        def look() -> None:
            try:
                value = self.store.read(node)
            except OSError:
                stop(Fail.code)
                return
            if not value:
                stop(0)

        def stop(rc: int, expired: bool = False) -> None:
            # Taking back the watch may show that xenstored is lost, which fails all operations: not this one twice.
            operation.stop = None
            if rc:
                self.say(f"domain {operation.domid} did not acknowledge the request to {command.decode()}: {rc}")
            if not expired:
                self.core.osevents.cancel_timeout(timeout)
            self.store.unwatch(watch)
            if operation in self._in_progress:
                then(rc)

        deadline = time.time() + _ACKNOWLEDGE_SECONDS
        timeout = self.core.osevents.register_timeout(deadline, lambda rc: stop(rc, expired=True))
        try:
            watch = self.store.watch(node, look)
        except BaseException:
            self.core.osevents.cancel_timeout(timeout)
            raise
        operation.stop = stop

    def _look_up(self, domid: int) -> int:
        """0 if the domain exists, else libxl's code."""
        try:
            listed = self.hypercalls.getdomaininfolist(domid, 1)
        except OSError:
            return Fail.code
        return 0 if listed and listed[0].domid == domid else DomainNotFound.code

    def _destroy(self, domid: int, done: Callable[[int], None]) -> None:
        try:
            self.hypercalls.pausedomain(domid)
        except OSError as error:
            self.say(f"xc_domain_pause failed: {error}")
        self._clear_store(domid)
        read_end, write_end = os.pipe2(os.O_CLOEXEC)

        def reaped(status: int) -> None:
            done(Fail.code if status else 0)

        try:
            # libxl forks because the hypercall can take long. This host is in this process's memory, which a child
            # can't change: so the child only waits for the result, to exit with it.
            self.children.fork(lambda: _read_status(read_end, write_end), reaped)
        except Fail as error:
            self.say(str(error))
            done(Fail.code)
        else:
            os.write(write_end, bytes([self._destroy_now(domid)]))
        finally:
            native.close(read_end)
            native.close(write_end)

    def _destroy_now(self, domid: int) -> int:
        try:
            self.hypercalls.destroydomain(domid)
        except OSError as error:
            self.say(f"xc_domain_destroy failed: {error}")
            return error.errno if error.errno and 0 < error.errno < _ERRNO_LIMIT else _DIFFICULT
        return 0

    def _clear_store(self, domid: int) -> None:
        """Remove what a toolstack wrote for the domain and its devices. What can't be removed is left behind."""
        store, libxl, directory = self.store, b"/libxl/%d" % domid, b"/local/domain/%d" % domid
        paths = []
        try:
            for kind in store.directory(libxl + b"/device"):
                for device in store.directory(libxl + b"/device/" + kind):
                    paths.append(store.read(libxl + b"/device/" + kind + b"/" + device + b"/backend"))
            paths += [store.read(directory + b"/vm"), directory, libxl]
            for path in paths:
                if path:
                    store.remove(path)
        except OSError as error:
            self.say(f"not all of domain {domid} could be removed from xenstore: {error}")

    def say(self, message: str) -> None:
        """Log an error as soon as the lock is released."""
        self.core.log(logging.ERROR, message)


def _read_status(read_end: int, write_end: int) -> int:
    native.close(write_end)
    status = os.read(read_end, 1)
    return status[0] if status else _DIFFICULT
