# SPDX-License-Identifier: LGPL-2.1-or-later
"""What requests do to xenstore's tree: nodes, permissions and quotas, wherever the nodes are kept.

The rules, and which error wins, are those of Xen's C xenstored. Paths given to a Tree are absolute; every method raises
OSError with the errno that xenstored would answer.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from typing import NamedTuple, NoReturn

from gxl.xenstore import is_valid_path

READ, WRITE, OWNER = 1, 2, 4
EVERYTHING = READ | WRITE | OWNER

# xenstored's defaults for what a guest may use; dom0 may use what it likes.
NODES_PER_GUEST = 1000
NODE_SIZE_MAX = 2048
PERMISSIONS_PER_NODE = 5

# What xenstored counts towards a node's size besides value, permissions and names of children.
_NODE_OVERHEAD = 24
_PERMISSION_SIZE = 8


def fail(number: int, what: str = "") -> NoReturn:
    """Raise the OSError that xenstored would answer with."""
    raise OSError(number, os.strerror(number) + (f": {what}" if what else ""))


class Permission(NamedTuple):
    """Who may do what. A node's first entry names its owner, and its flags hold for every domain not listed."""

    domid: int
    flags: int


Permissions = tuple[Permission, ...]


class Caller(NamedTuple):
    """On whose behalf something is done; a stub domain also has the rights of its `target`."""

    domid: int
    target: int | None = None

    @property
    def privileged(self) -> bool:
        return self.domid == 0


TOOLSTACK = Caller(0)


class Node:
    """One node; its name is its key in the tree."""

    __slots__ = ("children", "generation", "permissions", "value")

    def __init__(
        self, value: bytes, permissions: Permissions, generation: int, children: dict[bytes, None] | None = None
    ) -> None:
        self.value = value
        self.permissions = permissions
        self.generation = generation
        self.children = {} if children is None else children

    def copy(self) -> Node:
        return Node(self.value, self.permissions, self.generation, self.children.copy())

    @property
    def size(self) -> int:
        names = sum(map(len, self.children)) + len(self.children)
        return _NODE_OVERHEAD + _PERMISSION_SIZE * len(self.permissions) + len(self.value) + names


def parent_of(path: bytes) -> bytes:
    return path[: path.rindex(b"/")] or b"/"


def _name_of(path: bytes) -> bytes:
    return path[path.rindex(b"/") + 1 :]


def join(directory: bytes, name: bytes) -> bytes:
    return directory + name if directory == b"/" else directory + b"/" + name


class Tree:
    """What requests do, to the store itself or inside a transaction."""

    def read(self, caller: Caller, path: bytes) -> bytes:
        return self.node(caller, path, READ).value

    def write(self, caller: Caller, path: bytes, value: bytes) -> None:
        if self._existing(caller, path, WRITE) is None:
            self._create(caller, path, value)
        else:
            node = self._edit(path)
            before, node.value = node.value, value
            if not caller.privileged and node.size >= NODE_SIZE_MAX:
                node.value = before
                self._over_quota(path)
        self._changed(path)

    def mkdir(self, caller: Caller, path: bytes) -> None:
        if self._existing(caller, path, WRITE) is None:
            self._create(caller, path, b"")
            self._changed(path)

    def remove(self, caller: Caller, path: bytes) -> None:
        """Remove a node and all below it. A missing node is fine where its parent exists."""
        if self._existing(caller, path, WRITE) is None:
            if self._find(parent_of(path)) is None:
                fail(errno.ENOENT)
            return
        if path == b"/":
            fail(errno.EINVAL)
        for name in list(self._bottom_up(path)):
            self._changed(name, exact=name != path)
            self._discard(name)
        del self._edit(parent_of(path)).children[_name_of(path)]

    def set_permissions(self, caller: Caller, path: bytes, permissions: Permissions) -> None:
        node = self.node(caller, path, WRITE | OWNER)
        before = node.permissions
        if not caller.privileged and permissions[0].domid != before[0].domid:
            fail(errno.EPERM)
        self._own(path, permissions)
        self._edit(path).permissions = permissions
        self._changed(path, before=before)

    def node(self, caller: Caller, path: bytes, need: int) -> Node:
        """The node itself, if `caller` may do with it what it needs to."""
        node = self._existing(caller, path, need)
        if node is None:
            fail(errno.ENOENT)
        return node

    def _existing(self, caller: Caller, path: bytes, need: int) -> Node | None:
        if not is_valid_path(path):
            fail(errno.EINVAL)
        node = self._find(path)
        if node is not None and self.allowed(caller, node) & need == need:
            return node
        # Whoever may not look into the nearest existing parent must not learn whether the node exists.
        above = path
        while above != b"/":
            above = parent_of(above)
            parent = self._find(above)
            if parent is not None:
                if not self.allowed(caller, parent) & need:
                    fail(errno.EACCES)
                break
        if node is not None:
            fail(errno.EACCES)
        return None

    def _create(self, caller: Caller, path: bytes, value: bytes) -> None:
        missing = [path]
        above = parent_of(path)
        while (parent := self._find(above)) is None:
            missing.append(above)
            above = parent_of(above)
        permissions = parent.permissions
        if not caller.privileged:
            if not self._room_for(caller, len(missing)):
                self._over_quota(path)
            permissions = (Permission(caller.domid, permissions[0].flags), *permissions[1:])
            grown = parent.size + len(_name_of(missing[-1])) + 1
            if max(grown, Node(value, permissions, 0).size) >= NODE_SIZE_MAX:
                self._over_quota(path)
        for name in reversed(missing):
            self._edit(above).children[_name_of(name)] = None
            self._insert(name, value if name == path else b"", permissions)
            above = name

    def _bottom_up(self, path: bytes) -> Iterator[bytes]:
        stack = [(path, iter(self._children(path)))]
        while stack:
            name, children = stack[-1]
            child = next(children, None)
            if child is None:
                stack.pop()
                yield name
            else:
                below = join(name, child)
                stack.append((below, iter(self._children(below))))

    def _children(self, path: bytes) -> list[bytes]:
        node = self._find(path)
        return [] if node is None else list(node.children)

    def _room_for(self, guest: Caller, nodes: int) -> bool:
        return self._owned_by(guest.domid) + nodes <= NODES_PER_GUEST

    def _over_quota(self, path: bytes) -> NoReturn:
        fail(errno.ENOSPC, path.decode("ascii"))

    def allowed(self, caller: Caller, node: Node) -> int:
        """What `caller` may do with `node`: READ, WRITE and OWNER together."""
        raise NotImplementedError

    def _find(self, path: bytes) -> Node | None:
        raise NotImplementedError

    def _edit(self, path: bytes) -> Node:
        """The node at `path`, to be changed in place by the caller."""
        raise NotImplementedError

    def _insert(self, path: bytes, value: bytes, permissions: Permissions) -> None:
        raise NotImplementedError

    def _discard(self, path: bytes) -> None:
        raise NotImplementedError

    def _own(self, path: bytes, permissions: Permissions) -> None:
        """The owner of `path` is about to become that of `permissions`."""
        raise NotImplementedError

    def _owned_by(self, domid: int) -> int:
        raise NotImplementedError

    def _changed(self, path: bytes, *, exact: bool = False, before: Permissions | None = None) -> None:
        """Something happened to `path`; `exact` if only watches on that very path are to know."""
        raise NotImplementedError
