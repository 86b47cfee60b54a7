# SPDX-License-Identifier: LGPL-2.1-or-later
"""A Context's operations: started, and waited for where the caller wants to see their end."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from typing import Any, NamedTuple
from uuid import UUID, uuid4

from gxl.arguments import check_config, check_fd, check_image, check_timeout, check_user, check_vdev
from gxl.building import Build, End
from gxl.domains import Designation, locate
from gxl.errors import GxlError, MisuseError
from gxl.events import DomainCreateConsoleAvailable, OperationComplete
from gxl.identity import Identity
from gxl.interfaces import AsyncHow, NewDomain
from gxl.operations import Operation
from gxl.pump import Pump


class Terms(NamedTuple):
    """What the caller wants of an operation: see Context.domain_pause."""

    wait: bool
    timeout: float | None
    for_user: int | None


class Toolstack:
    """What a Context does to domains. A domain is given by its domid, its name or its UUID: see Context.domid_of."""

    def _enter_alive(self) -> Pump:
        raise NotImplementedError

    def domain_pause(
        self, domid: int | str | UUID, wait: bool = True, timeout: float | None = None, for_user: int | None = None
    ) -> Operation:
        """Stop scheduling the domain's vcpus.

        This and the operations below wait, cooperatively, for their end, and raise libxl's error if they fail. With
        `wait=False` they return as soon as the operation has started; the Operation that they return can be waited
        for. When `timeout` seconds are over, WaitTimeout is raised and libxl is asked to abort the operation; it is
        also asked to when the waiting greenlet is killed. With `for_user`, an OperationComplete with that for_user is
        queued at the end as well, unless the operation could not even be started.
        """
        return _operate(self._enter_alive(), "domain_pause", domid, Terms(wait, timeout, for_user))

    def domain_unpause(
        self, domid: int | str | UUID, wait: bool = True, timeout: float | None = None, for_user: int | None = None
    ) -> Operation:
        """Let the domain's vcpus run again."""
        return _operate(self._enter_alive(), "domain_unpause", domid, Terms(wait, timeout, for_user))

    def domain_shutdown(
        self, domid: int | str | UUID, wait: bool = True, timeout: float | None = None, for_user: int | None = None
    ) -> Operation:
        """Ask the guest to shut down; it has a minute to acknowledge the request. Watch the domain to see it happen."""
        return _operate(self._enter_alive(), "domain_shutdown", domid, Terms(wait, timeout, for_user))

    def domain_reboot(
        self, domid: int | str | UUID, wait: bool = True, timeout: float | None = None, for_user: int | None = None
    ) -> Operation:
        """Ask the guest to shut down with reason REBOOT; starting it again is the toolstack's business."""
        return _operate(self._enter_alive(), "domain_reboot", domid, Terms(wait, timeout, for_user))

    def domain_destroy(
        self, domid: int | str | UUID, wait: bool = True, timeout: float | None = None, for_user: int | None = None
    ) -> Operation:
        """Destroy the domain and its devices. libxl forks a child for it.

        Raises MisuseError where the hub can't watch children (under gevent: off the main thread).
        """
        pump = self._enter_alive()
        return _operate(pump, "domain_destroy", domid, Terms(wait, timeout, for_user), forks=True)

    def domain_create(
        self,
        config: str | dict[str, Any],
        console: bool = False,
        wait: bool = True,
        timeout: float | None = None,
        for_user: int | None = None,
    ) -> Operation:
        """Create a domain, and leave it paused: domain_unpause it. Its domid is the Operation's.

        `config` is libxl's JSON, as text or as the dict that it stands for: what `xl create --dryrun` prints. A domain
        without a UUID in `c_info` gets a random one. With `console`, a DomainCreateConsoleAvailable is queued when its
        console can be opened, whose for_user is `for_user`, or 0. A process of its own calls libxl; if that dies or
        is stuck, the operation fails, and what it left of the domain is destroyed.
        """
        return _create(self._enter_alive(), config, None, console, Terms(wait, timeout, for_user))

    def domain_restore(
        self,
        fd: int,
        config: str | dict[str, Any],
        console: bool = False,
        wait: bool = True,
        timeout: float | None = None,
        for_user: int | None = None,
    ) -> Operation:
        """Create a domain in the state that domain_suspend wrote, read from `fd`; otherwise as domain_create.

        `config`: the one that it was created with. Leave `fd` alone until the end: it is in use, and blocking.
        """
        check_fd(fd)
        return _create(self._enter_alive(), config, fd, console, Terms(wait, timeout, for_user))

    def domain_suspend(
        self,
        domid: int | str | UUID,
        fd: int,
        live: bool = False,
        wait: bool = True,
        timeout: float | None = None,
        for_user: int | None = None,
    ) -> Operation:
        """Let the guest suspend itself, and write its state to `fd`; with `live`, most of it while it still runs.

        Afterwards the domain is there, shut down with reason SUSPEND: domain_destroy it. Leave `fd` alone until the
        end: it is in use, and blocking. What is in `fd` is libxl's alone; `xl` writes a header of its own before it.
        """
        return _suspend(self._enter_alive(), domid, fd, live, Terms(wait, timeout, for_user))

    def cdrom_insert(
        self,
        domid: int | str | UUID,
        vdev: str,
        path: str | None,
        format: str = "raw",
        wait: bool = True,
        timeout: float | None = None,
        for_user: int | None = None,
    ) -> Operation:
        """Put the image file `path` into the CD drive `vdev` of an HVM domain; None takes out what is in it.

        `format`: "raw", "qcow2", "vhd" … Both are the caller's to know. Nothing that an eject event says of its disk
        belongs here: the guest chose it.
        """
        return _insert(self._enter_alive(), domid, vdev, path, format, Terms(wait, timeout, for_user))


def _operate(pump: Pump, function: str, domain: Designation, terms: Terms, forks: bool = False) -> Operation:
    """An operation that takes a domain and nothing else."""
    domid, terms = _locate(pump, domain, terms)
    operation = _prepare(pump, f"{function}({domid})", domid, terms, forks)
    return _run(pump, operation, terms, lambda how: getattr(pump.engine, function)(domid, how))


def _suspend(pump: Pump, domain: Designation, fd: int, live: bool, terms: Terms) -> Operation:
    check_fd(fd)
    domid, terms = _locate(pump, domain, terms)
    operation = _prepare(pump, f"domain_suspend({domid})", domid, terms, forks=True)
    return _run(pump, operation, terms, lambda how: pump.engine.domain_suspend(domid, fd, live, how))


def _insert(pump: Pump, domain: Designation, vdev: str, path: str | None, format: str, terms: Terms) -> Operation:
    check_vdev(vdev)
    check_image(path, format)
    domid, terms = _locate(pump, domain, terms)
    operation = _prepare(pump, f"cdrom_insert({domid}, {vdev!r})", domid, terms, forks=False)
    return _run(pump, operation, terms, lambda how: pump.engine.cdrom_insert(domid, vdev, path, format, how))


def _create(pump: Pump, config: object, fd: int | None, console: bool, terms: Terms) -> Operation:
    # With an fd, it is domain_restore.
    checked = check_config(config)
    if fd is not None:
        check_fd(fd)
    c_info = {"uuid": str(uuid4())} | checked["c_info"]
    checked = checked | {"c_info": c_info}
    function = "domain_create" if fd is None else "domain_restore"
    what = f"{function}({c_info.get('name')!r})"
    who = Identity.of_config(c_info)
    operation = _prepare(pump, what, None, terms, forks=True, who=who)
    for_user = terms.for_user or 0 if console else None
    if pump.engine.builder is not None:

        def tell(domid: int) -> None:
            pump.accept(pump.feeds.stamp(DomainCreateConsoleAvailable(domid), who.uuid, for_user or 0, who.name))

        def start(ended: End) -> Callable[[], object]:
            return Build(pump, checked, for_user, fd, ended, tell).abort

        with pump.lock:
            operation.hand_over(start)
        return _await(pump, operation, terms)
    return _run(pump, operation, terms, lambda how: _in_process(pump, operation, checked, fd, how, for_user))


def _in_process(
    pump: Pump, operation: Operation, config: dict[str, object], fd: int | None, how: AsyncHow, console: int | None
) -> None:
    text = json.dumps(config)
    if fd is None:
        operation.domain = pump.engine.domain_create_new(text, how, console)
    else:
        operation.domain = pump.engine.domain_create_restore(text, fd, how, console)


def _locate(pump: Pump, domain: Designation, terms: Terms) -> tuple[int, Terms]:
    timeout = check_timeout(terms.timeout)
    if not terms.wait or timeout is None or not isinstance(domain, str):
        return locate(pump, domain), terms
    begin = time.monotonic()
    domid = locate(pump, domain, timeout)
    return domid, terms._replace(timeout=max(0.0, timeout - (time.monotonic() - begin)))


def _prepare(
    pump: Pump, what: str, domid: int | None, terms: Terms, forks: bool, who: Identity | None = None
) -> Operation:
    check_timeout(terms.timeout)
    if terms.wait:
        pump.check_can_block("pass wait=False, and await the Operation")
    if terms.for_user is not None:
        check_user(terms.for_user, "for_user")
    # Without a loop the engine reaps its children itself.
    if forks and pump.binding.childproc is None and pump.binding.osevent is not None:
        raise MisuseError(f"{what} forks, and this hub can't watch children here: open the Context in the main thread")

    if who is not None and who.uuid is not None:
        # The engine's own event of its console has nothing but the domid.
        pump.feeds.names.creating[who.uuid] = who.name
    elif terms.for_user is not None and domid is not None:
        who = Identity.of(pump, domid)

    def ended(rc: int) -> None:
        if who is not None and who.uuid is not None:
            pump.feeds.names.creating.pop(who.uuid, None)
        if terms.for_user is not None:
            pump.feeds.catch_up()  # the name was asked for before the operation began
            event = OperationComplete(operation.domid or 0, rc)
            uuid, name = (None, None) if who is None else (who.uuid, who.name)
            pump.accept(pump.feeds.stamp(event, uuid, terms.for_user, name))

    domain = NewDomain()
    domain.domid = domid
    operation = Operation(pump, what, domain, ended)
    return operation


def _run(pump: Pump, operation: Operation, terms: Terms, call: Callable[[AsyncHow], object]) -> Operation:
    with pump.lock:
        operation.start(call)
    return _await(pump, operation, terms)


def _await(pump: Pump, operation: Operation, terms: Terms) -> Operation:
    if terms.wait:
        try:
            operation.wait(terms.timeout)
        except BaseException:
            try:
                operation.abort()
            except GxlError as error:
                # Why the caller leaves matters more than that libxl can't be asked to stop.
                pump.log(logging.WARNING, "%r was given up, but asking to abort it failed: %s", operation, error)
            raise
    return operation
