# SPDX-License-Identifier: LGPL-2.1-or-later
"""gxl's xenstored and Xen's own C xenstored, request by request on the same simulated hypervisor.

Where the two differ, gxl's is wrong, but for two things in which nobody could want to be like the C daemon: it answers
a few malformed requests with the errno of whatever failed before, or not at all if nothing did; and a domain that a
stub domain targets is not released while the stub domain is there.
"""

from __future__ import annotations

import glob
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from requirements import Requirements
from xenstored_reference import Client, Conversation, InProcess, OverRing, OverSocket, Reference

from gxl.simhost import SimHost
from gxl.xenstore import Operation

GUEST, STRANGER = 1, 2
Answers = list[list[tuple[int, bytes]]]

# What a guest may use is small here, so that tests reach the limits.
QUOTAS = {
    "gxl.simhost.tree.NODES_PER_GUEST": ("-E", 12),
    "gxl.simhost.tree.NODE_SIZE_MAX": ("-S", 200),
    "gxl.simhost.requests.PERMISSIONS_PER_NODE": ("-A", 3),
    "gxl.simhost.store.NODES_PER_TRANSACTION": ("-Q", 8),
    "gxl.simhost.requests.WATCHES_PER_GUEST": ("-W", 3),
    "gxl.simhost.requests.TRANSACTIONS_PER_GUEST": ("-t", 2),
}


def without_generation(answer: tuple[int, bytes]) -> tuple[int, bytes]:
    """DIRECTORY_PART tells a node's generation, which only has to stay the same while the node does."""
    operation, payload = answer
    return (operation, payload.partition(b"\0")[2]) if operation == Operation.DIRECTORY_PART else answer


class Pair:
    """The same clients of both daemons: two tools in dom0, and a guest."""

    def __init__(self, host: SimHost, reference: Reference) -> None:
        self.host = host
        self.reference = reference
        self._ours = [InProcess(host), InProcess(host), InProcess(host, GUEST)]
        self._theirs: list[OverSocket | OverRing] = [
            OverSocket(reference),
            OverSocket(reference),
            OverRing(reference, 0),
        ]
        sides: list[Sequence[Client]] = [self._ours, self._theirs]
        self.sides = [[Conversation(client) for client in clients] for clients in sides]

    def ask(self, client: int, operation: int, payload: bytes, transaction: int = 0) -> tuple[Answers, Answers]:
        """What all clients get, from either daemon, when one of them makes a request."""
        for side in self.sides:
            side[client].send(operation, payload, transaction)
        return self.catch_up(client)

    def catch_up(self, first: int = 0) -> tuple[Answers, Answers]:
        """What came; asks `first` first, since the request that it made must have been served before the others'."""
        sides = []
        for conversations in self.sides:
            answers: Answers = [[], [], []]
            for client in sorted(range(3), key=lambda client: client != first):
                answers[client] = [without_generation(answer) for answer in conversations[client].catch_up()]
            sides.append(answers)
        return sides[0], sides[1]

    def agree(self, client: int, operation: int, payload: bytes, transaction: int = 0) -> Answers:
        """Make a request; both daemons answer alike, and so do their events."""
        ours, theirs = self.ask(client, operation, payload, transaction)
        assert ours == theirs, (client, operation, payload, transaction)
        return ours

    def close(self) -> None:
        for ours in self._ours:
            ours.connection.close()
        for theirs in self._theirs:
            if isinstance(theirs, OverSocket):
                theirs.connection.close()


@pytest.fixture(scope="module")
def doors(require: Requirements, tmp_path_factory: pytest.TempPathFactory) -> str:
    source = Path(__file__).with_name("xenstored_doors.c")
    library = tmp_path_factory.mktemp("doors") / "doors.so"
    command = [require.program("cc"), "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"]
    subprocess.run(command, check=True, timeout=60)
    return str(library)


@pytest.fixture
def both(
    require: Requirements, doors: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[SimHost, Reference]]:
    found = sorted(glob.glob("/usr/lib/xen-4.*/bin/xenstored"))
    xenstored = found[-1] if found else str(require.file("/usr/lib/xen-4.17/bin/xenstored"))
    # These quotas are about the daemon's resources, not about what it answers, and are not simulated.
    options = ["-Q", "memory=0", "-Q", "outstanding=1000000"]
    for name, (option, value) in QUOTAS.items():
        monkeypatch.setattr(name, value)
        options += [option, f"transaction-nodes={value}" if option == "-Q" else str(value)]
    host = SimHost()
    assert [host.create_domain(), host.create_domain()] == [GUEST, STRANGER]
    # The C daemon knows nothing of what a toolstack wrote.
    for name in ("local", "vm", "libxl"):
        host.rm("/" + name)
    reference = Reference(host, tmp_path, xenstored, doors, options)
    yield host, reference
    reference.close()
    host.close()


@pytest.fixture
def pair(both: tuple[SimHost, Reference]) -> Iterator[Pair]:
    host, reference = both
    introduction = OverSocket(reference)
    for domid in (GUEST, STRANGER):
        Conversation(introduction).send(Operation.INTRODUCE, b"%d\x001\x005\0" % domid, 0)
        Conversation(introduction).catch_up()
    introduction.connection.close()
    pair = Pair(host, reference)
    yield pair
    pair.close()


READ, WRITE, MKDIR, RM, LS = Operation.READ, Operation.WRITE, Operation.MKDIR, Operation.RM, Operation.DIRECTORY
WATCH, UNWATCH = Operation.WATCH, Operation.UNWATCH
GET, SET = Operation.GET_PERMS, Operation.SET_PERMS
START, END = Operation.TRANSACTION_START, Operation.TRANSACTION_END

Script = Sequence[tuple[int, int, bytes] | tuple[int, int, bytes, int]]

SCRIPTS: dict[str, Script] = {
    "payloads of other shapes": [
        (0, WRITE, b""),
        (0, WRITE, b"/a"),
        (0, WRITE, b"/a\0"),
        (0, WRITE, b"/a\0x\0y"),
        (0, READ, b"/a\0"),
        (0, WATCH, b"/a\0"),
        (0, WATCH, b"/a\0t"),
        (0, WATCH, b"/a\0t\0more"),
        (0, WATCH, b"/a\0t\0more\0"),
        (0, UNWATCH, b"/a\0t\0junk"),
        (0, UNWATCH, b"/a\0t\0"),
        (0, SET, b""),
        (0, SET, b"/a"),
        (0, SET, b"/a\0"),
        (0, SET, b"/a\0n0"),
        (0, SET, b"/a\0x0\0"),
        (0, SET, b"/a\0n\0"),
        (0, SET, b"/a\0nx\0"),
        (0, SET, b"/a\0\0"),
        (0, START, b""),
        (0, START, b"x\0"),
        (0, END, b"T\0"),
        (0, END, b"X\0", 1),
        (0, END, b"T", 1),
        (0, END, b"T\0", 77),
        (0, Operation.DIRECTORY_PART, b"/\0"),
        (0, Operation.DIRECTORY_PART, b"/\x000"),
        (0, Operation.DIRECTORY_PART, b"/\x000\0"),
        (0, Operation.DIRECTORY_PART, b"/\x005\0"),
        (0, Operation.DIRECTORY_PART, b"/\x00999\0"),
        (0, Operation.DIRECTORY_PART, b"/\0junk\0"),
        (0, Operation.DIRECTORY_PART, b"/none\x000\0"),
    ],
    "paths": [
        (client, op, path + tail)
        for op, tail in ((READ, b"\0"), (WRITE, b"\0v"), (WATCH, b"\0t\0"))
        for client in (0, 2)
        for path in (
            *(
                b"",
                b"/",
                b"a",
                b"//",
                b"/a/",
                b"/a//b",
                b"/a b",
                b"/\xff",
                b"@",
                b"@releaseDomain",
                b"@anything",
                b"/@x",
            ),
            *(b"/" + b"a" * length for length in (2047, 2048, 2049)),
            *(b"/local/domain/1/" + b"a" * length for length in (2047, 2048, 2049)),
            *(b"a" * length for length in (2047, 2048, 2049)),
            b"@" + b"a" * 2047,
            b"@" + b"a" * 2048,
        )
    ],
    "a tree": [
        (0, WRITE, b"/t/a/b\x001"),
        (0, LS, b"/t\0"),
        (0, READ, b"/t\0"),
        (0, MKDIR, b"/t/a/b\0"),
        (0, READ, b"/t/a/b\0"),
        (0, MKDIR, b"/t/c/d\0"),
        (0, LS, b"/t\0"),
        (0, GET, b"/t/c/d\0"),
        (0, RM, b"/t/a\0"),
        (0, RM, b"/t/a\0"),
        (0, RM, b"/t/a/b\0"),
        (0, RM, b"/t/a/b/c\0"),
        (0, RM, b"/\0"),
        (0, LS, b"/t\0"),
        (0, WRITE, b"/t\0" + b"x" * 4000),
        (0, READ, b"/t\0"),
        (0, WRITE, b"relative\0x"),
        (0, READ, b"/local/domain/0/relative\0"),
        (0, LS, b"/local/domain\0"),
    ],
    "watches": [
        (0, MKDIR, b"/t/a/b\0"),
        (0, WATCH, b"/t\0above\0"),
        (0, WATCH, b"/t/a\0at\0"),
        (1, WATCH, b"/t/a/b\0below\0"),
        (1, WATCH, b"/t/a/b\0again\0"),
        (1, WATCH, b"/t/a/b\0below\0"),
        (0, WATCH, b"/\0root\0"),
        (0, WATCH, b"/t/ab\0near\0"),
        (2, WATCH, b"/t\0guest\0"),
        (0, WRITE, b"/t/a\x001"),
        (1, WRITE, b"/t/a/b/c/d\x001"),
        (0, MKDIR, b"/t/a\0"),
        (0, SET, b"/t/a\0n0\0r1\0"),
        (0, WRITE, b"/t/a\x002"),
        (0, SET, b"/t/a\0n0\0"),
        (0, RM, b"/t/a\0"),
        (0, RM, b"/t/a\0"),
        (0, UNWATCH, b"/t\0nobody\0"),
        (0, UNWATCH, b"/t\0above\0"),
        (0, WRITE, b"/t/a\x003"),
        (1, Operation.RESET_WATCHES, b"\0"),
        (0, WRITE, b"/t/a/b\x003"),
        (0, WATCH, b"/t/a\0root\0"),
        (0, WRITE, b"/t/a\x004"),
        (0, WATCH, b"relative\0r\0"),
        (0, WRITE, b"relative/x\0r"),
        (0, WATCH, b"@releaseDomain\0r\0"),
        (0, WATCH, b"@introduceDomain\0i\0"),
        (0, WATCH, b"@nonsense\0n\0"),
    ],
    "transactions": [
        (0, MKDIR, b"/t/a\0"),
        (0, WATCH, b"/t\0t\0"),
        (0, START, b"\0"),
        (0, START, b"\0", 1),
        (0, WRITE, b"/t/a\0in", 1),
        (0, WRITE, b"/t/b/c\0in", 1),
        (0, READ, b"/t/a\0", 1),
        (1, READ, b"/t/a\0"),
        (0, LS, b"/t\0", 1),
        (0, LS, b"/t\0"),
        (0, END, b"T\0", 1),
        (0, LS, b"/t\0"),
        (0, READ, b"/t/a\0", 1),
        # An intervening write to something that was read.
        (0, START, b"\0"),
        (0, READ, b"/t/a\0", 2),
        (1, WRITE, b"/t/a\0out"),
        (0, WRITE, b"/t/d\0in", 2),
        (0, END, b"T\0", 2),
        # One to something that was not.
        (0, START, b"\0"),
        (0, READ, b"/t/a\0", 3),
        (1, WRITE, b"/t/b\0out"),
        (0, WRITE, b"/t/d\0in", 3),
        (0, END, b"T\0", 3),
        # Something that was looked for and not found, and then appeared.
        (0, START, b"\0"),
        (0, READ, b"/t/new\0", 4),
        (1, WRITE, b"/t/new\0out"),
        (0, WRITE, b"/t/d\0in", 4),
        (0, END, b"T\0", 4),
        # Given up.
        (0, START, b"\0"),
        (0, RM, b"/t\0", 5),
        (0, READ, b"/t\0", 5),
        (0, END, b"F\0", 5),
        (0, LS, b"/t\0"),
        # Removal, creation and removal again, and permissions.
        (0, START, b"\0"),
        (0, RM, b"/t/b\0", 6),
        (0, WRITE, b"/t/b\0again", 6),
        (0, WRITE, b"/t/gone\0x", 6),
        (0, RM, b"/t/gone\0", 6),
        (0, SET, b"/t/a\0n0\0r1\0", 6),
        (0, END, b"T\0", 6),
        (0, LS, b"/t\0"),
        (0, LS, b"/t/b\0"),
        (0, GET, b"/t/a\0"),
        # Changed itself and removed with its parent: whichever comes first, watches above hear of the former.
        (0, START, b"\0"),
        (0, WRITE, b"/t/b\0x", 7),
        (0, RM, b"/t\0", 7),
        (0, WRITE, b"/t/a\0x", 7),
        (0, END, b"T\0", 7),
        # Watches know nothing of transactions.
        (0, WATCH, b"/u\0u\0", 99),
        (0, UNWATCH, b"/u\0u\0", 99),
        (0, START, b"\0"),
        (0, Operation.RESET_WATCHES, b"\0"),
        (0, READ, b"/t\0", 8),
    ],
    "permissions": [
        (0, MKDIR, b"/g\0"),
        (0, SET, b"/g\0n1\0"),
        (2, GET, b"/g\0"),
        (2, WRITE, b"/g/own\0mine"),
        (2, GET, b"/g/own\0"),
        (2, SET, b"/g/own\0n1\0r2\0"),
        (2, SET, b"/g/own\0n2\0"),
        (2, SET, b"/g/own\0n77\0"),
        (2, SET, b"/g/own\0n1\0r77\0"),
        (2, GET, b"/g/own\0"),
        (0, SET, b"/g/own\0n77\0"),
        (0, WRITE, b"/s/secret\0s"),
        (2, READ, b"/s\0"),
        (2, READ, b"/s/secret\0"),
        (2, READ, b"/s/nothing\0"),
        (2, WRITE, b"/s/nothing\0x"),
        (2, RM, b"/s/secret\0"),
        (2, LS, b"/\0"),
        (0, SET, b"/s\0r0\0"),
        (2, LS, b"/s\0"),
        (2, READ, b"/s/nothing\0"),
        (2, READ, b"/s/secret\0"),
        (2, WRITE, b"/s/new\0x"),
        (0, SET, b"/s\0n0\0w1\0"),
        (2, READ, b"/s\0"),
        (2, WRITE, b"/s/new\0x"),
        (2, GET, b"/s/new\0"),
        (2, RM, b"/s/new\0"),
        (2, RM, b"/s/secret\0"),
        (2, SET, b"/s\0n1\0"),
        (0, SET, b"@releaseDomain\0n0\0r1\0"),
        (2, SET, b"@releaseDomain\0n1\0"),
        (0, GET, b"@releaseDomain\0"),
        (2, RM, b"/g\0"),
        (2, Operation.INTRODUCE, b"1\x001\x001\0"),
        (2, Operation.RESUME, b"1\0"),
        (2, Operation.GET_DOMAIN_PATH, b"1\0"),
        (2, Operation.IS_DOMAIN_INTRODUCED, b"1\0"),
        (2, Operation.RESET_WATCHES, b"\0"),
    ],
    "watches and permissions": [
        (0, MKDIR, b"/s/deep\0"),
        (0, SET, b"/s\0r0\0"),
        (2, WATCH, b"/s\0s\0"),
        (2, WATCH, b"/s/deep\0deep\0"),
        (2, WATCH, b"@releaseDomain\0r\0"),
        (0, WRITE, b"/s/deep\x001"),
        (0, WRITE, b"/s/deep/er\x001"),
        (0, SET, b"/s/deep\0r0\0"),
        (0, WRITE, b"/s/deep/er\x002"),
        (0, SET, b"/s\0n0\0"),
        (0, WRITE, b"/s\x002"),
        (0, WRITE, b"/s/deep\x002"),
        (0, RM, b"/s\0"),
        (0, MKDIR, b"/local/domain/1\0"),
        (0, SET, b"/local/domain/1\0n1\0"),
        (2, WATCH, b"mine\0m\0"),
        (2, WRITE, b"mine/x\x001"),
        (0, WRITE, b"/local/domain/1/mine\x001"),
        (2, RM, b"mine\0"),
        (2, UNWATCH, b"/local/domain/1/mine\0m\0"),
    ],
    "quotas of a guest": [
        (0, MKDIR, b"/local/domain/1\0"),
        (0, SET, b"/local/domain/1\0n1\0"),
        *((2, WRITE, b"n%d/x\x001" % number) for number in range(8)),
        (2, LS, b"/local/domain/1\0"),
        (2, RM, b"n0\0"),
        (2, WRITE, b"big\0" + b"x" * 165),
        (2, WRITE, b"big\0" + b"x" * 166),
        (2, WRITE, b"big\0" + b"x" * 167),
        (2, WRITE, b"big\0" + b"x" * 168),
        (2, WRITE, b"big\0" + b"x" * 169),
        (2, RM, b"big\0"),
        (2, WRITE, b"a\0" + b"x" * 169),
        (2, SET, b"n1\0n1\0r2\0r0\0"),
        (2, SET, b"n1\0n1\0r2\0r0\0b2\0"),
        *((2, WATCH, b"w\0%d\0" % number) for number in range(6)),
        *((2, START, b"\0") for number in range(5)),
        (2, WRITE, b"n1\x002", 1),
        *((2, READ, b"r%d\0" % number, 2) for number in range(10)),
        (2, END, b"T\0", 2),
        (2, END, b"T\0", 1),
    ],
    "domains": [
        *((0, Operation.GET_DOMAIN_PATH, field + b"\0") for field in (b"0", b"1", b"77", b"x", b"-1", b" 5x", b"")),
        *((0, Operation.IS_DOMAIN_INTRODUCED, field + b"\0") for field in (b"0", b"1", b"77", b"x", b"32752")),
        *((0, Operation.RESUME, field + b"\0") for field in (b"0", b"1", b"77", b"x")),
        *((0, Operation.SET_TARGET, field) for field in (b"", b"1\0", b"1\x0077\0", b"77\x001\0")),
        *((0, Operation.INTRODUCE, field) for field in (b"", b"1\x001\0", b"1\x001\x000\0", b"1\x001\0-1\0")),
        (0, WATCH, b"@introduceDomain\0i\0"),
        (0, WATCH, b"@releaseDomain\0r\0"),
        (0, Operation.INTRODUCE, b"1\x001\x005\0"),
        (0, Operation.RELEASE, b"0\0"),
        (0, Operation.RELEASE, b"77\0"),
        (0, Operation.RELEASE, b"2\0"),
        (0, Operation.IS_DOMAIN_INTRODUCED, b"2\0"),
        (0, Operation.RELEASE, b"2\0"),
        (0, Operation.INTRODUCE, b"2\x001\x005\0"),
        (0, Operation.IS_DOMAIN_INTRODUCED, b"2\0"),
    ],
    "a stub domain's target": [
        (0, MKDIR, b"/of-two\0"),
        (0, SET, b"/of-two\0n2\0"),
        (2, WRITE, b"/of-two/x\x001"),
        (0, Operation.SET_TARGET, b"1\x002\0"),
        (2, WRITE, b"/of-two/x\x001"),
        (2, GET, b"/of-two/x\0"),
        (2, READ, b"/of-two\0"),
    ],
    "requests that are none": [
        *((0, op, b"x\0") for op in (Operation.WATCH_EVENT, Operation.ERROR, 20, 23, 24, 99, 0xFFFE)),
        *((2, op, b"x\0") for op in (Operation.WATCH_EVENT, Operation.ERROR, 20, 23, 24, 99, 0xFFFE)),
    ],
}


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripted_requests_get_the_same_answers(pair: Pair, script: str) -> None:
    for request in SCRIPTS[script]:
        pair.agree(*request)


@pytest.mark.parametrize("operation", [READ, MKDIR, RM, LS, GET])
@pytest.mark.parametrize("payload", [b"", b"/tool", b"/tool\0x", b"/a\0/b\0"])
def test_a_payload_that_is_no_single_string_is_refused(pair: Pair, operation: Operation, payload: bytes) -> None:
    # The C daemon sends the errno of whatever failed before; this makes sure that something did.
    pair.agree(0, READ, b"/none\0")
    ours, theirs = pair.ask(0, operation, payload)
    assert ours[0] == [(Operation.ERROR, b"EINVAL\0")]
    assert [kind for kind, _ in theirs[0]] == [Operation.ERROR]


def test_a_long_directory_comes_in_the_same_parts(pair: Pair) -> None:
    for number in range(600):
        pair.agree(0, WRITE, b"/t/a-name-of-some-length-%d\0" % number)
    pair.agree(0, LS, b"/t\0")
    offset = 0
    while True:
        answers = pair.agree(0, Operation.DIRECTORY_PART, b"/t\0%d\0" % offset)
        ((_, names),) = answers[0]
        if names.endswith(b"\0\0"):
            break
        offset += len(names)
    assert offset > 8000


def test_domains_that_shut_down_and_die_fire_alike(pair: Pair) -> None:
    host, reference = pair.host, pair.reference

    def after(change: object, *arguments: object) -> Answers:
        assert callable(change)
        change(*arguments)
        reference.domain_exception()
        ours, theirs = pair.catch_up()
        assert ours == theirs
        return ours

    pair.agree(0, WATCH, b"@releaseDomain\0r\0")
    pair.agree(0, WATCH, b"/\0all\0")
    pair.agree(0, WRITE, b"/of-two/x\x001")
    pair.agree(0, SET, b"/of-two\0n2\0")
    pair.agree(0, SET, b"/of-two/x\0n2\0")
    pair.agree(0, MKDIR, b"/shared\0")
    pair.agree(0, SET, b"/shared\0n0\0r2\0")
    assert after(host.shutdown_domain, STRANGER, 0)[0] == [(Operation.WATCH_EVENT, b"@releaseDomain\0r\0")]
    assert after(host.shutdown_domain, STRANGER, 0)[0] == []
    assert after(host.hypercalls.resumedomain, STRANGER)[0] == []
    assert after(host.shutdown_domain, STRANGER, 1)[0] == []
    after(host.hypercalls.resumedomain, STRANGER)
    pair.agree(0, Operation.RESUME, b"2\0")
    assert after(host.shutdown_domain, STRANGER, 1)[0] == [(Operation.WATCH_EVENT, b"@releaseDomain\0r\0")]
    assert after(host.mark_dying, STRANGER)[0][-1] == (Operation.WATCH_EVENT, b"@releaseDomain\0r\0")
    assert after(host.hypercalls.destroydomain, STRANGER)[0] == []
    pair.agree(0, LS, b"/\0")
    pair.agree(0, GET, b"/shared\0")
    pair.agree(0, Operation.IS_DOMAIN_INTRODUCED, b"2\0")


PATHS = [b"/t", b"/t/a", b"/t/a/b", b"/t/b", b"/g", b"/g/x", b"/g/x/y", b"x", b"/", b"/no/way/there", b"@releaseDomain"]
path = st.sampled_from(PATHS).map(lambda name: name + b"\0")
node = st.sampled_from(PATHS[:-1]).map(lambda name: name + b"\0")
token = st.sampled_from([b"one\0", b"two\0"])
permissions = st.lists(
    st.sampled_from([b"n0", b"n1", b"r1", b"b1", b"w1", b"r0", b"b2", b"n77"]), min_size=1, max_size=4
)
request = st.one_of(
    st.tuples(st.just(WRITE), st.builds(bytes.__add__, path, st.sampled_from([b"", b"v", b"x" * 150]))),
    st.tuples(st.sampled_from([READ, MKDIR, RM, LS, GET]), path),
    st.tuples(st.sampled_from([WATCH, UNWATCH]), st.builds(bytes.__add__, path, token)),
    st.tuples(st.just(SET), st.builds(lambda name, who: name + b"".join(w + b"\0" for w in who), node, permissions)),
    st.tuples(st.just(START), st.just(b"\0")),
    st.tuples(st.just(END), st.sampled_from([b"T\0", b"T\0", b"F\0"])),
)
asked = st.tuples(st.sampled_from([0, 1, 2]), request, st.sampled_from([0, 0, 1, 2]))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(asked, max_size=40))
def test_random_requests_get_the_same_answers(
    pair: Pair, script: list[tuple[int, tuple[Operation, bytes], int]]
) -> None:
    pair.agree(0, MKDIR, b"/g\0")
    pair.agree(0, SET, b"/g\0n1\0")
    transactions: list[list[int]] = [[], [], []]
    for client, (operation, payload), which in script:
        # One that is open, or the last that was, or none at all.
        begun = transactions[client]
        transaction = begun[-which] if 0 < which <= len(begun) else which * 1000
        answer = pair.agree(client, operation, payload, transaction)[client][-1]
        if answer[0] == START:
            begun.append(int(answer[1][:-1]))
    for client in range(3):
        pair.agree(client, Operation.RESET_WATCHES, b"\0")
    for name in (b"/t", b"/g", b"/no", b"/local"):
        pair.agree(0, RM, name + b"\0")
    pair.agree(0, WRITE, b"/\0")
    pair.agree(0, SET, b"/\0n0\0")
