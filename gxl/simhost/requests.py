# SPDX-License-Identifier: LGPL-2.1-or-later
"""What each xenstore request means. The parsing, and which error wins, is the C xenstored's, odd corners included."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from gxl.simhost.store import Transaction
from gxl.simhost.tree import PERMISSIONS_PER_NODE, READ, WRITE, Permission, Permissions, Tree, fail
from gxl.xenstore import PATH_MAX, PAYLOAD_MAX, Message, Operation, error_name, is_valid_path

if TYPE_CHECKING:
    from gxl.simhost.daemon import Daemon
    from gxl.simhost.sessions import Session

WATCHES_PER_GUEST = 128
TRANSACTIONS_PER_GUEST = 10
DOMID_SELF = 0x7FF0

_OK = b"OK\0"
_FLAGS = {b"n": 0, b"r": READ, b"w": WRITE, b"b": READ | WRITE}
_LETTERS = {flags: letter for letter, flags in _FLAGS.items()}
_ATOI = re.compile(rb"[ \t\n\v\f\r]*([+-]?\d+)")

_PRIVILEGED = frozenset(
    {
        Operation.CONTROL,
        Operation.INTRODUCE,
        Operation.RELEASE,
        Operation.IS_DOMAIN_INTRODUCED,
        Operation.RESUME,
        Operation.SET_TARGET,
    }
)
_WITHOUT_TRANSACTION = frozenset({Operation.WATCH, Operation.UNWATCH})
# A request on which one of these is injected breaks the connection instead of being answered.
_BREAKING = frozenset({errno.EPIPE, errno.ECONNRESET})


class Request:
    """One request while it is served."""

    __slots__ = ("daemon", "message", "session", "tree")

    def __init__(self, daemon: Daemon, session: Session, message: Message, tree: Tree) -> None:
        self.daemon = daemon
        self.session = session
        self.message = message
        self.tree = tree

    def strings(self) -> list[bytes]:
        """The payload's strings; what follows the last zero byte is none."""
        return self.message.payload.split(b"\0")[:-1]

    def only_string(self) -> bytes:
        """The payload, if it is one string and nothing else."""
        payload = self.message.payload
        if payload.find(b"\0") != len(payload) - 1 or not payload:
            fail(errno.EINVAL)
        return payload[:-1]

    def absolute(self, path: bytes) -> bytes:
        """A relative path starts in the directory of the client's domain."""
        if path[:1] in (b"", b"/", b"@"):
            return path
        return b"/local/domain/%d/" % self.session.domid + path


def serve(daemon: Daemon, session: Session, message: Message) -> None:
    """Carry out a request and reply to it."""
    handler = _HANDLERS.get(message.operation)
    operation = message.operation
    try:
        if handler is None:
            fail(errno.ENOSYS)
        if injected := daemon.take_failure(Operation(operation).name):
            if injected in _BREAKING:
                session.drop()
                return
            fail(injected)
        if operation in _PRIVILEGED and session.domid:
            fail(errno.EACCES)
        tree: Tree = daemon.store
        if message.transaction_id and operation not in _WITHOUT_TRANSACTION:
            transaction = session.transactions.get(message.transaction_id)
            if transaction is None:
                fail(errno.ENOENT)
            tree = transaction
        payload = handler(Request(daemon, session, message, tree))
        if len(payload) > PAYLOAD_MAX:
            fail(errno.E2BIG)
    except OSError as error:
        operation = Operation.ERROR
        payload = error_name(error.errno or errno.EIO) + b"\0"
    session.reply(Message(operation, message.request_id, message.transaction_id, payload))
    if operation == Operation.WATCH:
        _first_event(daemon, session, message)


def atoi(text: bytes) -> int:
    """C's atoi, read as an unsigned int: what xenstored makes of a domid."""
    match = _ATOI.match(text)
    return int(match[1]) % 2**32 if match else 0


def _read(request: Request) -> bytes:
    return request.tree.read(request.session.caller, request.absolute(request.only_string()))


def _write(request: Request) -> bytes:
    path, separator, value = request.message.payload.partition(b"\0")
    if not separator:
        fail(errno.EINVAL)
    request.tree.write(request.session.caller, request.absolute(path), value)
    return _OK


def _mkdir(request: Request) -> bytes:
    request.tree.mkdir(request.session.caller, request.absolute(request.only_string()))
    return _OK


def _rm(request: Request) -> bytes:
    request.tree.remove(request.session.caller, request.absolute(request.only_string()))
    return _OK


def _directory(request: Request) -> bytes:
    node = request.tree.node(request.session.caller, request.absolute(request.only_string()), READ)
    return b"".join(name + b"\0" for name in node.children)


def _directory_part(request: Request) -> bytes:
    fields = request.strings()
    if len(fields) != 2:
        fail(errno.EINVAL)
    node = request.tree.node(request.session.caller, request.absolute(fields[0]), READ)
    names = b"".join(name + b"\0" for name in node.children)
    head = b"%d\0" % node.generation
    offset = atoi(fields[1])
    if offset >= len(names):
        return head + b"\0"
    room = PAYLOAD_MAX - len(head) - 1
    end = len(names) if len(names) - offset <= room else names.rfind(b"\0", offset, offset + room) + 1
    # An empty name tells that this part is the last.
    return head + names[offset:end] + (b"\0" if end == len(names) else b"")


def _get_perms(request: Request) -> bytes:
    node = request.tree.node(request.session.caller, request.absolute(request.only_string()), READ)
    return b"".join(_LETTERS[entry.flags] + b"%d\0" % entry.domid for entry in node.permissions)


def parse_permissions(fields: list[bytes]) -> Permissions:
    """Permissions as they are written on the wire: a letter and a domid each."""
    permissions = []
    for field in fields:
        if field[:1] not in _FLAGS or not re.fullmatch(rb"\d{1,5}", field[1:]):
            fail(errno.EINVAL)
        permissions.append(Permission(int(field[1:]), _FLAGS[field[:1]]))
    return tuple(permissions)


def _set_perms(request: Request) -> bytes:
    path, *fields = request.strings() or [b""]
    if not fields:
        fail(errno.EINVAL)
    caller = request.session.caller
    if not caller.privileged and len(fields) > PERMISSIONS_PER_NODE:
        fail(errno.ENOSPC)
    permissions = parse_permissions(fields)
    known = [request.daemon.knows(entry.domid) for entry in permissions]
    if not known[0]:
        fail(errno.ENOENT)
    if path[:1] == b"@":
        special = request.daemon.special
        if path not in special:
            fail(errno.EINVAL)
        if not caller.privileged and special[path][0].domid != caller.domid:
            fail(errno.EACCES)
        special[path] = permissions
    else:
        request.tree.set_permissions(caller, request.absolute(path), permissions)
    return _OK


def _watch_fields(request: Request) -> tuple[bytes, bytes]:
    fields = request.strings()
    if len(fields) != 2:
        fail(errno.EINVAL)
    return request.absolute(fields[0]), fields[1]


def _watch(request: Request) -> bytes:
    path, token = _watch_fields(request)
    session = request.session
    if len(path) > PATH_MAX if path[:1] == b"@" else not is_valid_path(path):
        fail(errno.EINVAL)
    if (path, token) in session.watches:
        fail(errno.EEXIST)
    if session.domid and len(session.watches) > WATCHES_PER_GUEST:
        fail(errno.E2BIG)
    return _OK


def _first_event(daemon: Daemon, session: Session, message: Message) -> None:
    # A new watch fires once, and the event follows the reply.
    request = Request(daemon, session, message, daemon.store)
    path, token = _watch_fields(request)
    daemon.watch(session, path, token, strip=len(path) - message.payload.index(b"\0"))


def _unwatch(request: Request) -> bytes:
    if not request.daemon.unwatch(request.session, *_watch_fields(request)):
        fail(errno.ENOENT)
    return _OK


def _reset_watches(request: Request) -> bytes:
    request.daemon.unwatch_all(request.session)
    request.session.transactions.clear()
    return _OK


def _transaction_start(request: Request) -> bytes:
    session = request.session
    if request.message.transaction_id:
        fail(errno.EBUSY)
    if session.domid and len(session.transactions) > TRANSACTIONS_PER_GUEST:
        fail(errno.ENOSPC)
    while True:
        session.last_transaction = session.last_transaction % 0xFFFFFFFF + 1
        if session.last_transaction not in session.transactions:
            break
    session.transactions[session.last_transaction] = Transaction(request.daemon.store, session.caller)
    return b"%d\0" % session.last_transaction


def _transaction_end(request: Request) -> bytes:
    answer = request.only_string()
    if answer not in (b"T", b"F"):
        fail(errno.EINVAL)
    if not request.message.transaction_id:
        fail(errno.ENOENT)
    transaction = request.session.transactions.pop(request.message.transaction_id)
    if answer == b"T":
        transaction.commit()
    return _OK


def _introduced_domain(request: Request, field: bytes) -> int:
    domid = atoi(field)
    if not request.daemon.is_introduced(domid):
        fail(errno.ENOENT)
    return domid


def _one_guest(request: Request) -> int:
    field = request.only_string()
    if not atoi(field):
        fail(errno.EINVAL)
    return _introduced_domain(request, field)


def _introduce(request: Request) -> bytes:
    fields = request.strings()
    if len(fields) < 3 or not atoi(fields[2]):
        fail(errno.EINVAL)
    domid = atoi(fields[0])
    if not request.daemon.knows(domid):
        fail(errno.EINVAL)
    request.daemon.introduce(domid)
    return _OK


def _release(request: Request) -> bytes:
    request.daemon.release(_one_guest(request))
    return _OK


def _resume(request: Request) -> bytes:
    request.daemon.resume(_one_guest(request))
    return _OK


def _set_target(request: Request) -> bytes:
    fields = request.strings()
    if len(fields) < 2:
        fail(errno.EINVAL)
    domid, target = (_introduced_domain(request, field) for field in fields[:2])
    request.daemon.targets[domid] = target
    return _OK


def _is_domain_introduced(request: Request) -> bytes:
    domid = atoi(request.only_string())
    return b"T\0" if domid == DOMID_SELF or request.daemon.is_introduced(domid) else b"F\0"


def _get_domain_path(request: Request) -> bytes:
    return b"/local/domain/%d\0" % atoi(request.only_string())


_HANDLERS: dict[int, Callable[[Request], bytes]] = {
    Operation.DIRECTORY: _directory,
    Operation.READ: _read,
    Operation.GET_PERMS: _get_perms,
    Operation.WATCH: _watch,
    Operation.UNWATCH: _unwatch,
    Operation.TRANSACTION_START: _transaction_start,
    Operation.TRANSACTION_END: _transaction_end,
    Operation.INTRODUCE: _introduce,
    Operation.RELEASE: _release,
    Operation.GET_DOMAIN_PATH: _get_domain_path,
    Operation.WRITE: _write,
    Operation.MKDIR: _mkdir,
    Operation.RM: _rm,
    Operation.SET_PERMS: _set_perms,
    Operation.IS_DOMAIN_INTRODUCED: _is_domain_introduced,
    Operation.RESUME: _resume,
    Operation.SET_TARGET: _set_target,
    Operation.RESET_WATCHES: _reset_watches,
    Operation.DIRECTORY_PART: _directory_part,
}
