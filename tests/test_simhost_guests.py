# SPDX-License-Identifier: LGPL-2.1-or-later
"""What guests hear of other domains at the simulated xenstored, and what ends with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing

import pytest
from test_simhost import Store

from gxl import SimHost
from gxl.xenstore import Operation

Open = Callable[[int], Store]


@pytest.fixture
def host() -> Iterator[SimHost]:
    with SimHost() as host:
        yield host


@pytest.fixture
def connect(host: SimHost) -> Iterator[Open]:
    """Opens the connection of the domain that it is given."""
    with ExitStack() as opened:
        yield lambda domid: Store(opened.enter_context(closing(host.connect(domid))))


def heard(store: Store) -> list[bytes]:
    """The paths of the events that have arrived since the last call."""
    store.do(Operation.GET_DOMAIN_PATH, b"0\0")
    events, store.events = store.events, []
    return [event.path for event in events]


def test_a_guest_hears_of_other_domains_only_with_the_right_to(host: SimHost, connect: Open) -> None:
    guest, first, second = (host.create_domain() for _ in range(3))
    store, tool = connect(guest), connect(0)
    tool.watch(b"@releaseDomain")
    store.client.watch(b"@releaseDomain", b"t")
    heard(store)
    host.destroy_domain(first)
    assert heard(tool) == [b"@releaseDomain"]
    assert heard(store) == []
    tool.do(Operation.SET_PERMS, b"@releaseDomain\0n0\0r%d\0" % guest)
    host.destroy_domain(second)
    assert heard(store) == [b"@releaseDomain"]


def test_a_guests_connection_ends_with_it(host: SimHost, connect: Open) -> None:
    guest = host.create_domain()
    store = connect(guest)
    host.destroy_domain(guest)
    with pytest.raises(EOFError):
        store.receive()


def test_a_domain_that_gets_a_stub_domains_id_does_not_get_its_rights(host: SimHost, connect: Open) -> None:
    guest = host.create_domain()
    secret = f"/local/domain/{guest}/data/secret"
    host.write(secret, "s")
    stub = host.create_domain(stub_domain_of=guest)
    assert connect(stub).do(Operation.READ, secret.encode() + b"\0") == b"s"
    host.destroy_domain(stub)
    host.create_domain(domid=stub)
    with pytest.raises(PermissionError):
        connect(stub).do(Operation.READ, secret.encode() + b"\0")
