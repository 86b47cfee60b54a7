# SPDX-License-Identifier: LGPL-2.1-or-later
import errno
import select
import socket
import sys
import threading
from collections.abc import Iterator
from uuid import UUID

import pytest
from requirements import Requirements

from gxl.simhost import Connection, SimHost
from gxl.simhost.launch import launch
from gxl.simhost.remote import RemoteHost
from gxl.xenstore import Client, Operation, Request, WatchEvent

RELEASE, INTRODUCE = b"@releaseDomain", b"@introduceDomain"
Host = SimHost | RemoteHost


class Store:
    """A xenstore client on a connection to the host."""

    def __init__(self, connection: Connection | socket.socket) -> None:
        self.connection = connection
        self.client = Client()
        self.events: list[WatchEvent] = []

    def send(self) -> None:
        while self.client.outgoing:
            self.client.sent(self.connection.send(bytes(self.client.outgoing)))

    def receive(self) -> None:
        data = self.connection.recv(65536)
        if not data:
            raise EOFError
        self.events += [item for item in self.client.receive(data) if isinstance(item, WatchEvent)]

    def finish(self, request: Request) -> bytes:
        self.send()
        while not request.done:
            assert select.select([self.connection], [], [], 10)[0]
            self.receive()
        return request.result()

    def do(self, operation: Operation, payload: bytes, transaction: int = 0) -> bytes:
        return self.finish(self.client.request(operation, payload, transaction))

    def watch(self, path: bytes, token: bytes = b"t") -> None:
        """Watch, without the event that a new watch gives."""
        self.client.watch(path, token)
        assert self.seen() == [path]

    def seen(self) -> list[bytes]:
        """The paths of all events since the last call: those that arrived before the answer to one more request."""
        self.do(Operation.READ, b"/tool\0")
        events, self.events = self.events, []
        return [event.path for event in events]

    def silent(self) -> bool:
        """Whether nothing has arrived."""
        return not select.select([self.connection], [], [], 0)[0]


@pytest.fixture(scope="module")
def remote(require: Requirements) -> Iterator[RemoteHost]:
    require.program("cc")
    with launch() as (host, _):
        yield host


@pytest.fixture
def local() -> Iterator[SimHost]:
    with SimHost() as host:
        yield host


@pytest.fixture(params=["local", "remote"])
def host(request: pytest.FixtureRequest) -> Host:
    host: Host = request.getfixturevalue(request.param)
    if isinstance(host, RemoteHost):
        host.reset()
    return host


@pytest.fixture
def store(host: Host) -> Iterator[Store]:
    store = Store(host.connect())
    yield store
    store.connection.close()


@pytest.fixture
def local_store(local: SimHost) -> Iterator[Store]:
    store = Store(local.connect())
    yield store
    store.connection.close()


def state(host: Host, domid: int) -> str:
    info = host.domain_info(domid)
    flags = {"running": info.running, "paused": info.paused, "shutdown": info.shutdown, "dying": info.dying}
    return " ".join(name for name, is_set in flags.items() if is_set)


def gone(host: Host, domid: int) -> bool:
    try:
        host.domain_info(domid)
    except ProcessLookupError:
        return True
    return False


def test_a_host_begins_with_dom0(host: Host) -> None:
    assert [info.domid for info in host.domains()] == [0]
    assert host.read("/local/domain/0/name") == b"Domain-0"


def test_domids_are_handed_out_in_turn_and_reused_as_late_as_possible(host: Host) -> None:
    assert [host.create_domain() for _ in range(3)] == [1, 2, 3]
    host.destroy_domain(2)
    assert host.create_domain() == 4


def test_domids_wrap_below_the_reserved_ones_and_skip_those_in_use(local: SimHost) -> None:
    local.create_domain()
    local._domains._last_domid = 0x7FF0 - 2
    assert local.create_domain() == 0x7FEF
    assert local.create_domain() == 2


def test_a_chosen_domid_does_not_move_the_turn(host: Host) -> None:
    assert host.create_domain(domid=100) == 100
    assert host.create_domain() == 1


def test_a_domid_in_use_is_refused(host: Host) -> None:
    host.create_domain(domid=7)
    with pytest.raises(FileExistsError):
        host.create_domain(domid=7)


@pytest.mark.parametrize("domid", [0, -1, 0x7FF0, 2**32])
def test_a_domid_out_of_range_is_refused(host: Host, domid: int) -> None:
    with pytest.raises(ValueError, match=str(domid)):
        host.create_domain(domid=domid)


def test_a_domain_runs_pauses_shuts_down_resumes_dies_and_vanishes(host: Host) -> None:
    domid = host.create_domain()
    assert state(host, domid) == "running"
    host.pause_domain(domid)
    assert state(host, domid) == "paused"
    host.unpause_domain(domid)
    host.shutdown_domain(domid, 3)
    assert state(host, domid) == "shutdown"
    assert host.domain_info(domid).shutdown_reason == 3
    host.resume_domain(domid)
    assert state(host, domid) == "running"
    host.mark_dying(domid)
    assert state(host, domid) == "dying"
    host.destroy_domain(domid)
    assert gone(host, domid)


@pytest.mark.parametrize("reason", [-1, 256, 1.0, True, "poweroff"])
def test_a_shutdown_reason_that_does_not_fit_a_byte_is_refused(host: Host, reason: int) -> None:
    domid = host.create_domain()
    with pytest.raises(ValueError, match="0 to 255"):
        host.shutdown_domain(domid, reason)
    assert state(host, domid) == "running"


@pytest.mark.parametrize(
    "change", ["pause_domain", "unpause_domain", "shutdown_domain", "resume_domain", "mark_dying", "destroy_domain"]
)
def test_a_domain_that_is_not_there_and_dom0_can_not_be_changed(host: Host, change: str) -> None:
    with pytest.raises(ProcessLookupError):
        getattr(host, change)(9)
    with pytest.raises(OSError, match="domain 0") as caught:
        getattr(host, change)(0)
    assert caught.value.errno == errno.EINVAL


def test_cpu_time_grows_only_while_a_domain_runs(host: Host) -> None:
    domid = host.create_domain()
    first = host.domain_info(domid).cpu_time_ns
    assert host.domain_info(domid).cpu_time_ns > first
    host.pause_domain(domid)
    still = host.domain_info(domid).cpu_time_ns
    assert host.domain_info(domid).cpu_time_ns == still
    host.unpause_domain(domid)
    assert host.domain_info(domid).cpu_time_ns > still


def test_what_a_toolstack_writes_for_a_domain(host: Host) -> None:
    uuid = UUID("12345678-1234-5678-1234-567812345678")
    domid = host.create_domain("web", uuid=uuid, memory_kb=4096, vcpus=2, kind="pvh")
    assert host.domain_info(domid).uuid == uuid
    assert host.read("/local/domain/1/name") == b"web"
    assert host.read("/local/domain/1/vm").decode() == f"/vm/{uuid}"
    assert host.read(f"/vm/{uuid}/name") == b"web"
    assert host.read("/libxl/1/type") == b"pvh"
    assert host.ls("/local/domain/1/cpu") == ["0", "1"]


def test_nothing_of_a_destroyed_domain_stays_in_the_store(host: Host) -> None:
    domid = host.create_domain()
    host.add_disk(domid, "xvda")
    host.destroy_domain(domid)
    assert host.ls("/local/domain") == ["0"]
    assert host.ls("/libxl") == host.ls("/vm") == host.ls("/local/domain/0/backend/qdisk") == []


def test_a_shutdown_fires_release_once_until_the_domain_is_resumed(host: Host, store: Store) -> None:
    domid = host.create_domain()
    store.watch(RELEASE)
    host.shutdown_domain(domid, 2)
    host.shutdown_domain(domid, 0)
    assert store.seen() == [RELEASE]
    assert host.domain_info(domid).shutdown_reason == 2
    host.resume_domain(domid)
    assert store.seen() == []
    host.shutdown_domain(domid, 0)
    assert store.seen() == [RELEASE]


def test_a_resumed_domain_of_which_xenstored_was_not_told_shuts_down_unheard(
    local: SimHost, local_store: Store
) -> None:
    domid = local.create_domain()
    local_store.watch(RELEASE)
    local.shutdown_domain(domid, 2)
    local.hypercalls.resumedomain(domid)
    local.shutdown_domain(domid, 0)
    assert local_store.seen() == [RELEASE]
    local.hypercalls.resumedomain(domid)
    local_store.do(Operation.RESUME, b"%d\0" % domid)
    local.shutdown_domain(domid, 0)
    assert local_store.seen() == [RELEASE]


def test_watches_that_tell_the_same_are_told_once(host: Host, store: Store) -> None:
    store.watch(b"/a")
    store.watch(b"/a/b")
    host.write("/a/b", "1")
    with host.quiet():
        host.write("/a/b", "2")
    assert store.seen() == [b"/a/b"] * 2


def test_death_fires_release_when_it_begins_and_not_again_when_it_ends(host: Host, store: Store) -> None:
    domid = host.create_domain()
    store.watch(RELEASE)
    host.mark_dying(domid)
    assert store.seen() == [RELEASE]
    host.destroy_domain(domid)
    assert store.seen() == []


def test_a_destruction_fires_release_after_the_domain_has_left(host: Host, store: Store) -> None:
    domid = host.create_domain()
    store.watch(RELEASE)
    store.watch(b"/local/domain/1")
    host.destroy_domain(domid)
    assert store.seen() == [b"/local/domain/1", RELEASE]


def test_a_creation_fires_introduce(host: Host, store: Store) -> None:
    store.watch(INTRODUCE)
    host.create_domain()
    assert store.seen() == [INTRODUCE]


def test_release_can_fire_for_nothing(host: Host, store: Store) -> None:
    store.watch(RELEASE)
    host.release()
    assert store.seen() == [RELEASE]


def test_changes_in_quiet_fire_once_when_it_ends(host: Host, store: Store) -> None:
    one, two = host.create_domain(), host.create_domain()
    store.watch(RELEASE)
    store.watch(b"/a")
    with host.quiet():
        host.destroy_domain(one)
        with host.quiet():
            host.shutdown_domain(two, 1)
        host.write("/a", "1")
        host.write("/a", "2")
        assert store.seen() == []
    assert store.seen() == [RELEASE, b"/a"]


def test_the_end_of_a_new_domain_is_told_after_its_beginning_in_quiet_too(host: Host, store: Store) -> None:
    old = host.create_domain()
    store.watch(RELEASE)
    store.watch(b"@introduceDomain")
    with host.quiet():
        host.destroy_domain(old)
        host.create_domain(domid=old)
        host.shutdown_domain(old, 3)
    assert store.seen() == [b"@introduceDomain", RELEASE]


def test_a_watch_taken_back_in_quiet_is_not_fired(host: Host, store: Store) -> None:
    store.watch(b"/a")
    with host.quiet():
        host.write("/a", "1")
        store.do(Operation.UNWATCH, b"/a\0t\0")
    assert store.seen() == []


def test_a_disk_is_known_to_guest_backend_and_toolstack(host: Host) -> None:
    domid = host.create_domain()
    host.add_disk(domid, "hdc", "vbd", target="/dev/sr0")
    front = "/local/domain/1/device/vbd/5632"
    back = host.read(front + "/backend").decode()
    assert back == "/local/domain/0/backend/vbd/1/5632"
    assert host.read(front + "/dev") == b"hdc"
    assert host.read(back + "/params") == b"/dev/sr0"
    assert host.read("/libxl/1/device/vbd/5632/backend").decode() == back


def test_an_eject_is_written_by_the_guest_and_needs_the_disk(host: Host, store: Store) -> None:
    domid = host.create_domain()
    host.add_disk(domid, "xvda")
    eject = b"/local/domain/1/device/vbd/51712/eject"
    store.watch(eject)
    host.eject_disk(domid, "xvda")
    assert store.seen() == [eject]
    assert host.read(eject.decode()) == b"eject"
    with pytest.raises(OSError, match="xvdb"):
        host.eject_disk(domid, "xvdb")


def test_a_disk_can_not_be_added_twice_nor_under_no_name(host: Host) -> None:
    domid = host.create_domain()
    host.add_disk(domid, "xvda")
    with pytest.raises(FileExistsError):
        host.add_disk(domid, "xvda")
    with pytest.raises(ValueError, match="nonsense"):
        host.add_disk(domid, "nonsense")
    with pytest.raises(ValueError, match="q/d"):
        host.add_disk(domid, "xvdb", "q/d")


@pytest.mark.parametrize("disk_first", [True, False])
def test_with_a_stub_domain_the_eject_is_in_its_directory(host: Host, disk_first: bool) -> None:
    guest = host.create_domain(kind="hvm")
    if disk_first:
        host.add_disk(guest, "hdc")
    stub = host.create_domain(stub_domain_of=guest)
    if not disk_first:
        host.add_disk(guest, "hdc")
    assert host.read(f"/local/domain/{guest}/image/device-model-domid").decode() == str(stub)
    assert host.read(f"/local/domain/{stub}/target").decode() == str(guest)
    host.eject_disk(guest, "hdc")
    assert host.read(f"/local/domain/{stub}/device/vbd/5632/eject") == b"eject"
    host.destroy_domain(stub)
    host.eject_disk(guest, "hdc")
    assert host.read(f"/local/domain/{guest}/device/vbd/5632/eject") == b"eject"


def test_a_running_guest_obeys_control_shutdown(host: Host, store: Store) -> None:
    domid = host.create_domain()
    store.watch(RELEASE)
    store.do(Operation.WRITE, b"/local/domain/1/control/shutdown\0reboot")
    assert host.read("/local/domain/1/control/shutdown") == b""
    assert host.domain_info(domid).shutdown_reason == 1
    assert store.seen() == [RELEASE]


def test_a_paused_guest_obeys_when_it_runs_again(host: Host) -> None:
    domid = host.create_domain(paused=True)
    host.write("/local/domain/1/control/shutdown", "poweroff")
    assert host.read("/local/domain/1/control/shutdown") == b"poweroff"
    host.unpause_domain(domid)
    assert state(host, domid) == "shutdown"


def test_a_backend_lets_go_of_a_device(host: Host) -> None:
    host.add_disk(host.create_domain(), "xvda")
    path = "/local/domain/0/backend/qdisk/1/51712/state"
    host.write(path, "5")
    assert host.read(path) == b"6"


def test_changes_since_names_each_domain_that_changed_once(host: Host) -> None:
    one, two, three = (host.create_domain() for _ in range(3))
    serial, domids = host.changes_since(0)
    assert sorted(domids) == [0, one, two, three]
    assert host.changes_since(serial) == (serial, [])
    host.shutdown_domain(two, 0)
    host.destroy_domain(two)
    host.pause_domain(one)
    later, domids = host.changes_since(serial)
    assert later > serial
    assert sorted(domids) == [one, two]


def test_an_injected_error_fails_the_next_call_only(local: SimHost, local_store: Store) -> None:
    local.create_domain()
    local.fail_next("getdomaininfolist", errno.EPERM)
    local.fail_next("READ", errno.EIO)
    with pytest.raises(PermissionError):
        local.hypercalls.getdomaininfolist(0, 10)
    assert [info.domid for info in local.hypercalls.getdomaininfolist(0, 10)] == [0, 1]
    with pytest.raises(OSError, match="READ") as caught:
        local_store.do(Operation.READ, b"/tool\0")
    assert caught.value.errno == errno.EIO
    assert local_store.do(Operation.READ, b"/tool\0") == b""


def test_a_refusing_store(local: SimHost) -> None:
    local.fail_next("connect", errno.ECONNREFUSED)
    with pytest.raises(ConnectionRefusedError):
        local.connect()
    local.connect().close()


def test_a_request_can_break_the_connection(host: Host, store: Store) -> None:
    host.fail_next("WATCH", errno.EPIPE)
    with pytest.raises(EOFError):
        store.do(Operation.WATCH, b"/a\0t\0")


@pytest.mark.parametrize(("call", "number"), [("nonsense", 5), ("READ", 0), ("READ", -5)])
def test_only_known_calls_and_errnos_can_be_injected(host: Host, call: str, number: int) -> None:
    with pytest.raises(ValueError, match=r"call must be|errno must be"):
        host.fail_next(call, number)


@pytest.mark.parametrize(
    ("call", "arguments"),
    [
        ("getdomaininfo", (1,)),
        ("getdomaininfolist", (0, 9)),
        ("pausedomain", (1,)),
        ("unpausedomain", (1,)),
        ("resumedomain", (1,)),
        ("remote_shutdown", (1, 0)),
        ("destroydomain", (1,)),
        ("xen_version", ()),
    ],
)
def test_every_hypercall_can_fail_and_then_changes_nothing(
    local: SimHost, call: str, arguments: tuple[int, ...]
) -> None:
    local.create_domain()
    serial, _ = local.changes_since(0)
    local.fail_next(call, errno.EFAULT)
    with pytest.raises(OSError, match=call) as caught:
        getattr(local.hypercalls, call)(*arguments)
    assert caught.value.errno == errno.EFAULT
    assert local.changes_since(serial) == (serial, [])
    getattr(local.hypercalls, call)(*arguments)


def test_a_destroying_hypercall_leaves_the_toolstack_its_nodes(local: SimHost, local_store: Store) -> None:
    domid = local.create_domain("web")
    local_store.watch(RELEASE)
    local.hypercalls.destroydomain(domid)
    assert gone(local, domid)
    assert local_store.seen() == [RELEASE]
    assert local.read("/local/domain/1/name") == b"web"
    with pytest.raises(FileNotFoundError):
        local.read("/local/domain/1/data")


def test_a_slow_store_answers_when_the_stall_ends(host: Host, store: Store) -> None:
    store.watch(b"/a")
    with host.stalled():
        request = store.client.read(b"/a")
        host.write("/a", "1")
        store.send()
        assert store.silent()
    assert store.finish(request) == b"1"
    assert store.seen() == [b"/a"]


def test_dropped_connections_read_end_of_file_and_leave_nothing_behind(host: Host, store: Store) -> None:
    store.watch(b"/a")
    host.drop_connections()
    assert select.select([store.connection], [], [], 0)[0]
    assert store.connection.recv(10) == b""
    with pytest.raises(BrokenPipeError):
        store.connection.send(b"x")
    host.write("/a", "1")
    again = Store(host.connect())
    again.watch(b"/a")
    again.connection.close()


def test_a_closed_connection_is_closed_for_good(local: SimHost, local_store: Store) -> None:
    local_store.watch(b"/a")
    local_store.connection.close()
    local_store.connection.close()
    local.write("/a", "1")
    assert local_store.connection.fileno() == -1
    for use in (lambda: local_store.connection.send(b"x"), lambda: local_store.connection.recv(1)):
        with pytest.raises(OSError, match=r".") as caught:
            use()
        assert caught.value.errno == errno.EBADF


def test_a_closed_host_drops_and_refuses_connections(local: SimHost, local_store: Store) -> None:
    local.close()
    local.close()
    assert local_store.connection.recv(10) == b""
    with pytest.raises(ConnectionRefusedError):
        local.connect()


def test_a_connection_is_readable_exactly_while_something_is_there(local: SimHost, local_store: Store) -> None:
    connection = local_store.connection
    assert local_store.silent()
    local_store.client.read(b"/tool")
    assert connection.send(bytes(local_store.client.outgoing)) == len(local_store.client.outgoing)
    assert select.select([connection], [], [], 0)[0]
    assert connection.recv(65536)
    assert not select.select([connection], [], [], 0)[0]
    with pytest.raises(BlockingIOError):
        connection.recv(1)


def test_more_than_a_socket_holds_is_neither_lost_nor_blocks_and_stays_readable(
    local: SimHost, local_store: Store
) -> None:
    local.write("/big", b"x" * 4000)
    requests = [local_store.client.read(b"/big") for _ in range(500)]
    local_store.connection.send(bytes(local_store.client.outgoing))
    local_store.client.outgoing.clear()
    received = 0
    while received < len(requests):
        assert select.select([local_store.connection], [], [], 0)[0]
        received += sum(1 for _ in local_store.client.receive(local_store.connection.recv(5000)))
    assert all(request.result() == b"x" * 4000 for request in requests)
    assert not select.select([local_store.connection], [], [], 0)[0]


def test_equal_events_that_wait_are_merged_but_special_ones_never(host: Host, store: Store) -> None:
    store.watch(b"/a")
    store.watch(RELEASE)
    with host.stalled():
        for _ in range(5):
            host.write("/a", "1")
            host.release()
    assert store.seen() == [b"/a", *[RELEASE] * 5]


def test_a_client_that_never_reads_is_dropped_in_the_end(
    local: SimHost, local_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gxl.simhost.sessions.PENDING_MAX", 10_000)
    local_store.watch(b"/a")
    with local.stalled():
        for number in range(1000):
            local.write(f"/a/{number}", "")
    with pytest.raises(BrokenPipeError):
        local_store.seen()
    assert local_store.connection.recv(100) == b""


def test_threads_may_share_a_host(local: SimHost, local_store: Store) -> None:
    local_store.watch(RELEASE)

    def live_and_die() -> None:
        for _ in range(50):
            local.destroy_domain(local.create_domain())

    threads = [threading.Thread(target=live_and_die) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert local_store.seen() == [RELEASE] * 200
    assert [info.domid for info in local.domains()] == [0]


def test_a_host_leaves_no_fd_behind(leaves_nothing: None) -> None:
    with SimHost() as host:
        connection = host.connect()
        connection.close()
        other = host.connect()
    other.close()


def test_a_request_has_no_more_to_do_after_many_deaths(local: SimHost, local_store: Store) -> None:
    def calls() -> int:
        counted = 0

        def count(frame: object, event: str, argument: object) -> None:
            nonlocal counted
            counted += event == "call"

        sys.setprofile(count)
        try:
            local_store.do(Operation.READ, b"/tool\0")
        finally:
            sys.setprofile(None)
        return counted

    before = calls()
    for _ in range(20):
        domid = local.create_domain()
        local.add_disk(domid, "xvda")
        local.mark_dying(domid)
    assert calls() == before
