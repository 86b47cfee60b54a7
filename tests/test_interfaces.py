# SPDX-License-Identifier: LGPL-2.1-or-later
"""The contract, and that everything which claims to honour it has its shape. What it does is gxl.testing's to prove."""

import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator

import pytest
from requirements import Requirements
from zope.interface import implementedBy
from zope.interface.interface import InterfaceClass, Method
from zope.interface.verify import verifyClass

import gxl
from gxl import interfaces
from gxl.interfaces import SigchldOwner

CONTRACT = [entry for entry in vars(interfaces).values() if isinstance(entry, InterfaceClass)]


def implementations() -> Iterator[tuple[type, InterfaceClass]]:
    for found in pkgutil.walk_packages(gxl.__path__, "gxl."):
        module = importlib.import_module(found.name)
        for entry in vars(module).values():
            if isinstance(entry, type) and entry.__module__ == module.__name__:
                yield from ((entry, interface) for interface in implementedBy(entry) if interface in CONTRACT)  # type: ignore[no-untyped-call]  # zope.interface's is not typed


IMPLEMENTATIONS = list(implementations())


@pytest.mark.parametrize("interface", CONTRACT, ids=lambda interface: interface.__name__)
def test_everything_in_the_contract_is_documented(interface: InterfaceClass) -> None:
    assert interface.__doc__
    for name, entry in interface.namesAndDescriptions(all=True):
        assert entry.__doc__, f"{interface.__name__}.{name}"


@pytest.mark.parametrize(
    ("cls", "interface"), IMPLEMENTATIONS, ids=[f"{c.__qualname__}-{i.__name__}" for c, i in IMPLEMENTATIONS]
)
def test_an_implementation_has_the_contracts_shape(cls: type, interface: InterfaceClass) -> None:
    verifyClass(interface, cls)


@pytest.mark.parametrize(
    ("cls", "interface"), IMPLEMENTATIONS, ids=[f"{c.__qualname__}-{i.__name__}" for c, i in IMPLEMENTATIONS]
)
def test_an_implementation_calls_its_parameters_as_the_contract_does(cls: type, interface: InterfaceClass) -> None:
    # zope.interface counts parameters; a caller may also name them.
    for name, entry in interface.namesAndDescriptions(all=True):
        implemented = inspect.getattr_static(cls, name, None)
        if isinstance(entry, Method) and inspect.isfunction(implemented):
            names = list(inspect.signature(implemented).parameters)[1:]
            contract = [*entry.positional]
            assert names[: len(contract)] == contract, f"{cls.__qualname__}.{name}"


def test_every_part_of_the_contract_has_an_implementation() -> None:
    # IEventHooks is the application's; gxl has one of its own all the same.
    assert {interface for _, interface in IMPLEMENTATIONS} == set(CONTRACT)


def test_the_sigchld_modes_are_those_of_the_header(require: Requirements) -> None:
    header = require.file("/usr/include/libxl_event.h").read_text()
    enum = re.search(r"typedef enum \{(.*?)\} libxl_sigchld_owner;", header, re.DOTALL)
    assert enum is not None
    modes = re.findall(r"^\s*libxl_sigchld_owner_(\w+),", enum[1], re.MULTILINE)
    assert [owner.name.lower() for owner in SigchldOwner] == modes
    assert [int(owner) for owner in SigchldOwner] == list(range(len(modes)))
