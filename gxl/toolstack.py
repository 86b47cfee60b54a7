# SPDX-License-Identifier: LGPL-2.1-or-later
"""Starts a Context's operations, and waits for those that the caller wants to see the end of."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import NamedTuple
from uuid import uuid4

from gxl.arguments import check_config, check_domid, check_fd, check_image, check_timeout, check_user, check_vdev
from gxl.building import Build, End
from gxl.errors import GxlError, MisuseError
from gxl.events import DomainCreateConsoleAvailable, OperationComplete
from gxl.interfaces import AsyncHow, NewDomain
from gxl.operations import Operation
from gxl.pump import Pump


class Terms(NamedTuple):
    """What the caller wants of an operation: see Context.domain_pause."""

    wait: bool
    timeout: float | None
    for_user: int | None


def operate(pump: Pump, function: str, domid: int, terms: Terms, forks: bool = False) -> Operation:
    """An operation that takes a domid and nothing else."""
    operation = _prepare(pump, f"{function}({check_domid(domid)})", domid, terms, forks)
    return _run(pump, operation, terms, lambda how: getattr(pump.engine, function)(domid, how))


def suspend(pump: Pump, domid: int, fd: int, live: bool, terms: Terms) -> Operation:
    """domain_suspend."""
    check_fd(fd)
    operation = _prepare(pump, f"domain_suspend({check_domid(domid)})", domid, terms, forks=True)
    return _run(pump, operation, terms, lambda how: pump.engine.domain_suspend(domid, fd, live, how))


def insert(pump: Pump, domid: int, vdev: str, path: str | None, format: str, terms: Terms) -> Operation:
    """cdrom_insert."""
    check_vdev(vdev)
    check_image(path, format)
    operation = _prepare(pump, f"cdrom_insert({check_domid(domid)}, {vdev!r})", domid, terms, forks=False)
    return _run(pump, operation, terms, lambda how: pump.engine.cdrom_insert(domid, vdev, path, format, how))


def create(pump: Pump, config: object, fd: int | None, console: bool, terms: Terms) -> Operation:
    """domain_create; with an fd, domain_restore."""
    checked = check_config(config)
    if fd is not None:
        check_fd(fd)
    c_info = {"uuid": str(uuid4())} | checked["c_info"]
    checked = checked | {"c_info": c_info}
    function = "domain_create" if fd is None else "domain_restore"
    what = f"{function}({c_info.get('name')!r})"
    operation = _prepare(pump, what, None, terms, forks=True)
    for_user = terms.for_user or 0 if console else None
    if pump.engine.builder is not None:

        def tell(domid: int) -> None:
            pump.accept(pump.feeds.stamp(DomainCreateConsoleAvailable(domid), None, for_user or 0, None))

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


def _prepare(pump: Pump, what: str, domid: int | None, terms: Terms, forks: bool) -> Operation:
    check_timeout(terms.timeout)
    if terms.wait:
        pump.check_can_block("pass wait=False, and await the Operation")
    if terms.for_user is not None:
        check_user(terms.for_user, "for_user")
    # Without a loop the engine reaps its children itself.
    if forks and pump.binding.childproc is None and pump.binding.osevent is not None:
        raise MisuseError(f"{what} forks, and this hub can't watch children here: open the Context in the main thread")

    def ended(rc: int) -> None:
        if terms.for_user is not None:
            event = OperationComplete(operation.domid or 0, rc)
            pump.accept(pump.feeds.stamp(event, None, terms.for_user, None))

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
