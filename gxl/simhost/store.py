# SPDX-License-Identifier: LGPL-2.1-or-later
"""The tree that xenstored keeps, and transactions on it. No connections and no watches."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import NoReturn

from gxl.simhost.tree import (
    EVERYTHING,
    TOOLSTACK,
    Caller,
    Node,
    Permission,
    Permissions,
    Tree,
    fail,
    parent_of,
)

NODES_PER_TRANSACTION = 1024


class Store(Tree):
    """The whole tree. `on_change(path, exact, nodes)` hears of every change that is visible to all.

    A change may be seen by whoever may read one of `nodes`.
    """

    def __init__(self, on_change: Callable[[bytes, bool, tuple[Node, ...]], None]) -> None:
        self._on_change = on_change
        self._nodes: dict[bytes, Node] = {}
        self._owned: dict[int, dict[bytes, None]] = {}
        self._generation = 0
        # An entry for a domain counts only on nodes that were written after the domain appeared: a domain does not
        # inherit the rights of an earlier one with its number.
        self._domains: dict[int, int] = {0: 0}
        dom0 = (Permission(0, 0),)
        self._nodes[b"/"] = Node(b"", dom0, 0, {b"tool": None})
        self._nodes[b"/tool"] = Node(b"", dom0, 0, {b"xenstored": None})
        self._nodes[b"/tool/xenstored"] = Node(b"", dom0, 0)

    def domain_appeared(self, domid: int) -> None:
        """Nodes may be owned by, or shared with, this domain from now on."""
        self._domains[domid] = self._generation

    def domain_gone(self, domid: int) -> None:
        """Remove what the domain owned, as xenstored does, and forget it."""
        for path in sorted(self._owned.get(domid, ())):
            if path in self._nodes:
                self.remove(TOOLSTACK, path)
        self._domains.pop(domid, None)

    def knows_domain(self, domid: int) -> bool:
        return domid in self._domains

    def plant(self, path: bytes, value: bytes, permissions: Permissions) -> None:
        """Write a node with these permissions, as one change: what a toolstack does in a transaction."""
        node = self._nodes.get(path)
        if node is None:
            self._create(TOOLSTACK, path, value)
            self._own(path, permissions)
            self._nodes[path].permissions = permissions
        else:
            self._own(path, permissions)
            node = self._edit(path)
            node.value, node.permissions = value, permissions
        self._changed(path)

    def allowed(self, caller: Caller, node: Node) -> int:
        if caller.privileged:
            return EVERYTHING
        return self.rights(caller, node.permissions, node.generation)

    def rights(self, caller: Caller, permissions: Permissions, generation: int) -> int:
        """What a list of permissions, set at `generation`, gives to `caller`."""
        who = (caller.domid, caller.target)
        if caller.privileged or permissions[0].domid in who:
            return EVERYTHING
        for entry in permissions[1:]:
            if entry.domid in who and self._domains.get(entry.domid, generation + 1) <= generation:
                return entry.flags
        return permissions[0].flags

    def _find(self, path: bytes) -> Node | None:
        return self._nodes.get(path)

    def _edit(self, path: bytes) -> Node:
        node = self._nodes[path]
        self._generation += 1
        node.generation = self._generation
        return node

    def _insert(self, path: bytes, value: bytes, permissions: Permissions) -> None:
        self._generation += 1
        self._nodes[path] = Node(value, permissions, self._generation)
        if owner := permissions[0].domid:
            self._owned.setdefault(owner, {})[path] = None

    def _discard(self, path: bytes) -> None:
        owner = self._nodes.pop(path).permissions[0].domid
        if owner:
            del self._owned[owner][path]

    def _own(self, path: bytes, permissions: Permissions) -> None:
        before, after = self._nodes[path].permissions[0].domid, permissions[0].domid
        if before != after:
            if before:
                del self._owned[before][path]
            if after:
                self._owned.setdefault(after, {})[path] = None

    def _owned_by(self, domid: int) -> int:
        return len(self._owned.get(domid, ()))

    def _changed(self, path: bytes, *, exact: bool = False, before: Permissions | None = None) -> None:
        node = self._nodes.get(path)
        seen_by = [] if before is None else [Node(b"", before, self._generation)]
        if node is not None:
            seen_by += [node, self._nodes[parent_of(path)]]
        self._on_change(path, exact, tuple(seen_by))


class _Access:
    """A node as one transaction sees it; `node` is None where it does not exist."""

    __slots__ = ("exact", "generation", "modified", "node", "permissions", "to_report")

    def __init__(self, node: Node | None) -> None:
        self.node = None if node is None else node.copy()
        self.generation = None if node is None else node.generation
        self.permissions = None if node is None else node.permissions
        self.modified = False
        self.to_report = False
        self.exact = True


class Transaction(Tree):
    """Changes that nobody sees before `commit`, which fails if what they rest on has changed meanwhile."""

    def __init__(self, store: Store, caller: Caller) -> None:
        self._store = store
        self._caller = caller
        self._accesses: dict[bytes, _Access] = {}
        self._owned_delta: dict[int, int] = {}
        self._created = False
        self._broken = False

    def commit(self) -> None:
        """Make the changes visible. EAGAIN: begin again; ENOMEM: a request in the transaction hit a limit."""
        store = self._store
        if self._broken:
            fail(errno.ENOMEM)
        # Here, unlike in a single request, xenstored wants one node to spare.
        if self._created and not self._caller.privileged and not self._room_for(self._caller, 1):
            fail(errno.ENOSPC)
        for path, access in self._accesses.items():
            node = store._nodes.get(path)
            if (None if node is None else node.generation) != access.generation:
                fail(errno.EAGAIN)
        changes = [(path, access) for path, access in self._accesses.items() if access.modified]
        for path, access in changes:
            if access.node is not None:
                if path in store._nodes:
                    store._discard(path)
                store._insert(path, access.node.value, access.node.permissions)
                store._nodes[path].children = access.node.children
            elif path in store._nodes:
                store._discard(path)
        for path, access in changes:
            if access.to_report:
                store._changed(path, exact=access.exact, before=access.permissions)

    def allowed(self, caller: Caller, node: Node) -> int:
        return self._store.allowed(caller, node)

    def _access(self, path: bytes) -> _Access:
        access = self._accesses.get(path)
        if access is None:
            if not self._caller.privileged and len(self._accesses) >= NODES_PER_TRANSACTION:
                self._over_quota(path)
            access = self._accesses[path] = _Access(self._store._nodes.get(path))
        return access

    def _over_quota(self, path: bytes) -> NoReturn:
        self._broken = True
        super()._over_quota(path)

    def _find(self, path: bytes) -> Node | None:
        return self._access(path).node

    def _edit(self, path: bytes) -> Node:
        access = self._access(path)
        assert access.node is not None
        access.modified = True
        self._store._generation += 1
        access.node.generation = self._store._generation
        return access.node

    def _insert(self, path: bytes, value: bytes, permissions: Permissions) -> None:
        access = self._access(path)
        self._store._generation += 1
        access.node = Node(value, permissions, self._store._generation)
        access.modified = self._created = True
        self._count(permissions[0].domid, 1)

    def _discard(self, path: bytes) -> None:
        access = self._access(path)
        assert access.node is not None
        self._count(access.node.permissions[0].domid, -1)
        access.node = None
        access.modified = True

    def _own(self, path: bytes, permissions: Permissions) -> None:
        access = self._access(path)
        assert access.node is not None
        self._count(access.node.permissions[0].domid, -1)
        self._count(permissions[0].domid, 1)

    def _count(self, domid: int, change: int) -> None:
        self._owned_delta[domid] = self._owned_delta.get(domid, 0) + change

    def _owned_by(self, domid: int) -> int:
        return self._store._owned_by(domid) + self._owned_delta.get(domid, 0)

    def _changed(self, path: bytes, *, exact: bool = False, before: Permissions | None = None) -> None:
        access = self._access(path)
        access.to_report = True
        access.exact = access.exact and exact
