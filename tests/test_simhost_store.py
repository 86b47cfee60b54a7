# SPDX-License-Identifier: LGPL-2.1-or-later
"""The simulated xenstore's rules for guests and transactions, where no C xenstored is at hand to compare with."""

import pytest

from gxl.simhost.store import NODES_PER_TRANSACTION, Store, Transaction
from gxl.simhost.tree import NODE_SIZE_MAX, NODES_PER_GUEST, READ, TOOLSTACK, WRITE, Caller, Permission, Tree

GUEST = Caller(1)
Changes = list[tuple[bytes, bool]]


@pytest.fixture
def changes() -> Changes:
    return []


@pytest.fixture
def store(changes: Changes) -> Store:
    store = Store(lambda path, exact, nodes: changes.append((path, exact)))
    store.domain_appeared(1)
    store.domain_appeared(2)
    store.write(TOOLSTACK, b"/g", b"")
    store.set_permissions(TOOLSTACK, b"/g", (Permission(1, 0),))
    store.write(TOOLSTACK, b"/s/secret", b"s")
    changes.clear()
    return store


def names(store: Store, path: bytes) -> list[bytes]:
    return list(store.node(TOOLSTACK, path, READ).children)


def write_until_refused(tree: Tree, caller: Caller) -> None:
    for number in range(2 * NODES_PER_TRANSACTION):
        tree.write(caller, b"/g/%d/%d" % divmod(number, 50), b"")


def test_a_guest_owns_what_it_creates_and_sees_no_more_than_it_may(store: Store) -> None:
    store.write(GUEST, b"/g/a/b", b"mine")
    assert store.node(GUEST, b"/g/a/b", READ).permissions == (Permission(1, 0),)
    for path in (b"/s/secret", b"/s/nothing", b"/"):
        with pytest.raises(PermissionError):
            store.read(GUEST, path)
    with pytest.raises(FileNotFoundError):
        store.read(GUEST, b"/g/nothing")


def test_a_right_to_read_does_not_allow_to_write(store: Store) -> None:
    store.set_permissions(TOOLSTACK, b"/s/secret", (Permission(0, 0), Permission(1, READ)))
    assert store.read(GUEST, b"/s/secret") == b"s"
    with pytest.raises(PermissionError):
        store.write(GUEST, b"/s/secret", b"")
    with pytest.raises(PermissionError):
        store.remove(GUEST, b"/s/secret")
    with pytest.raises(PermissionError):
        store.set_permissions(GUEST, b"/s/secret", (Permission(1, 0),))


def test_the_first_entry_holds_for_whoever_is_not_listed(store: Store) -> None:
    store.set_permissions(TOOLSTACK, b"/s/secret", (Permission(0, READ), Permission(2, 0)))
    assert store.read(GUEST, b"/s/secret") == b"s"
    with pytest.raises(PermissionError):
        store.read(Caller(2), b"/s/secret")


def test_an_owner_may_share_but_not_give_away(store: Store) -> None:
    store.set_permissions(GUEST, b"/g", (Permission(1, 0), Permission(2, READ | WRITE)))
    store.write(Caller(2), b"/g", b"theirs")
    with pytest.raises(PermissionError):
        store.set_permissions(GUEST, b"/g", (Permission(2, 0),))


def test_a_new_domain_does_not_inherit_the_rights_of_an_earlier_one(store: Store) -> None:
    store.set_permissions(TOOLSTACK, b"/s/secret", (Permission(0, 0), Permission(1, READ)))
    store.domain_gone(1)
    store.domain_appeared(1)
    with pytest.raises(PermissionError):
        store.read(GUEST, b"/s/secret")


def test_what_a_domain_owned_goes_with_it(store: Store, changes: Changes) -> None:
    store.write(GUEST, b"/g/a", b"")
    changes.clear()
    store.domain_gone(1)
    assert b"g" not in names(store, b"/")
    assert changes == [(b"/g/a", True), (b"/g", False)]


def test_a_stub_domain_has_the_rights_of_its_target(store: Store) -> None:
    store.write(Caller(2, target=1), b"/g/by-stub", b"")
    assert store.node(TOOLSTACK, b"/g/by-stub", READ).permissions[0].domid == 2


def test_a_guest_can_not_have_more_nodes_than_its_quota(store: Store) -> None:
    with pytest.raises(OSError, match="No space"):
        write_until_refused(store, GUEST)
    assert store._owned_by(1) == NODES_PER_GUEST
    store.remove(GUEST, b"/g/1/1")
    store.write(GUEST, b"/g/1/1", b"")
    store.write(TOOLSTACK, b"/g/more", b"")


def test_a_guests_node_can_not_grow_beyond_its_quota(store: Store) -> None:
    with pytest.raises(OSError, match="No space"):
        store.write(GUEST, b"/g/big", bytes(NODE_SIZE_MAX))
    store.write(GUEST, b"/g/big", b"small")
    with pytest.raises(OSError, match="No space"):
        store.write(GUEST, b"/g/big", bytes(NODE_SIZE_MAX))
    assert store.read(GUEST, b"/g/big") == b"small"


def test_a_transaction_shows_its_changes_only_when_it_commits(store: Store, changes: Changes) -> None:
    transaction = Transaction(store, TOOLSTACK)
    transaction.write(TOOLSTACK, b"/t/a", b"1")
    transaction.remove(TOOLSTACK, b"/s")
    assert transaction.read(TOOLSTACK, b"/t/a") == b"1"
    assert changes == []
    assert names(store, b"/") == [b"tool", b"g", b"s"]
    transaction.commit()
    assert names(store, b"/") == [b"tool", b"g", b"t"]
    assert changes == [(b"/t/a", False), (b"/s", False), (b"/s/secret", True)]


@pytest.mark.parametrize("path", [b"/s/secret", b"/s/nothing"])
def test_a_transaction_fails_if_what_it_read_changed_meanwhile(store: Store, path: bytes) -> None:
    transaction = Transaction(store, TOOLSTACK)
    try:
        transaction.read(TOOLSTACK, path)
    except FileNotFoundError:
        pass
    transaction.write(TOOLSTACK, b"/t", b"1")
    store.write(TOOLSTACK, path, b"2")
    with pytest.raises(BlockingIOError):
        transaction.commit()
    assert b"t" not in names(store, b"/")


def test_a_transaction_does_not_mind_changes_elsewhere(store: Store) -> None:
    transaction = Transaction(store, TOOLSTACK)
    transaction.write(TOOLSTACK, b"/g/t", b"1")
    store.write(TOOLSTACK, b"/s/secret", b"2")
    transaction.commit()
    assert store.read(TOOLSTACK, b"/g/t") == b"1"


def test_a_transaction_sees_what_it_read_first_until_it_ends(store: Store) -> None:
    transaction = Transaction(store, TOOLSTACK)
    assert transaction.read(TOOLSTACK, b"/s/secret") == b"s"
    store.write(TOOLSTACK, b"/s/secret", b"other")
    assert transaction.read(TOOLSTACK, b"/s/secret") == b"s"


def test_a_transaction_that_hit_a_limit_can_not_commit(store: Store) -> None:
    transaction = Transaction(store, GUEST)
    with pytest.raises(OSError, match="No space"):
        write_until_refused(transaction, GUEST)
    with pytest.raises(OSError, match="memory"):
        transaction.commit()


def test_ownership_is_counted_through_transactions(store: Store) -> None:
    transaction = Transaction(store, TOOLSTACK)
    transaction.remove(TOOLSTACK, b"/g")
    transaction.write(TOOLSTACK, b"/h/i", b"")
    transaction.set_permissions(TOOLSTACK, b"/h/i", (Permission(1, 0),))
    transaction.commit()
    store.domain_gone(1)
    assert names(store, b"/h") == []
