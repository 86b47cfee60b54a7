# SPDX-License-Identifier: LGPL-2.1-or-later
"""The served host: real clients, hostile clients, its control socket and its process."""

import contextlib
import errno
import inspect
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from requirements import Requirements

from gxl.simhost import SimHost, preload
from gxl.simhost.launch import launch
from gxl.simhost.remote import RemoteHost
from gxl.simhost.server import Server
from gxl.xenstore import PAYLOAD_MAX, Decoder, Message, Operation, encode


@contextlib.contextmanager
def serving(server: Server) -> Iterator[Server]:
    """Inside, a thread of this process serves its host, which is closed at the end."""
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield server
    finally:
        server.stop()
        thread.join()
        server.host.close()
        server.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server in a thread of this process."""
    with serving(Server(tmp_path_factory.mktemp("sim"))) as server:
        yield server


@pytest.fixture
def remote(server: Server) -> Iterator[RemoteHost]:
    with RemoteHost(server.directory) as remote:
        remote.reset()
        yield remote


class Raw:
    """A blocking client that sends whatever it likes."""

    def __init__(self, server: Server, door: str = "socket") -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(10)
        self.sock.connect(str(server.directory / door))
        self.decoder = Decoder()

    def __enter__(self) -> "Raw":
        return self

    def __exit__(self, *exc: object) -> None:
        self.sock.close()

    def ask(self, operation: int, payload: bytes, transaction: int = 0) -> tuple[int, bytes]:
        """Send a request, and return type and payload of the reply; watch events are passed over."""
        self.sock.sendall(encode(Message(operation, 1, transaction, payload)))
        while True:
            message = self.next()
            if message.operation != Operation.WATCH_EVENT:
                return message.operation, message.payload

    def next(self) -> Message:
        while True:
            for message in self.decoder.feed(b""):
                return message
            data = self.sock.recv(65536)
            if not data:
                raise EOFError
            for message in self.decoder.feed(data):
                return message

    def at_end(self) -> bool:
        with contextlib.suppress(ConnectionResetError):
            while self.sock.recv(65536):
                pass
        return True


def still_serves(server: Server) -> bool:
    with Raw(server) as client:
        return client.ask(Operation.DIRECTORY, b"/\0")[0] == Operation.DIRECTORY


def test_remote_host_has_the_methods_of_sim_host() -> None:
    def methods(cls: type) -> dict[str, inspect.Signature]:
        return {
            name: inspect.signature(method)
            for name, method in vars(cls).items()
            if callable(method) and not name.startswith("_")
        }

    local, remote = methods(SimHost), methods(RemoteHost)
    assert set(local) - set(remote) == {"serve"}
    assert set(remote) - set(local) == {"reset"}
    for name in set(local) & set(remote) - {"connect"}:
        assert remote[name] == local[name], name


def test_several_threads_may_call_at_once(remote: RemoteHost) -> None:
    def write_and_read(number: int) -> list[bool]:
        path = f"/thread/{number}"
        seen = []
        for turn in range(100):
            remote.write(path, str(turn))
            seen.append(remote.read(path) == str(turn).encode())
        return seen

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(write_and_read, range(8))) == [[True] * 100] * 8


def test_debians_tools_read_write_list_and_watch(server: Server, remote: RemoteHost, require: Requirements) -> None:
    environment = {"PATH": os.environ["PATH"], "XENSTORED_RUNDIR": str(server.directory)}

    def run(*command: str) -> str:
        command = (require.program(command[0]), *command[1:])
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=20, check=True
        ).stdout.rstrip("\n")

    remote.create_domain("web")
    assert run("xenstore-read", "/local/domain/1/name") == "web"
    assert run("xenstore-write", "/a/b", "one", "/a/c", "two") == ""
    assert run("xenstore-list", "/a") == "b\nc"
    assert run("xenstore-ls", "-f", "/a") == '/a/b = "one"\n/a/c = "two"'
    assert run("xenstore-exists", "/a/b") == ""
    assert run("xenstore-chmod", "/a/b", "n0", "r1") == ""
    assert run("xenstore-ls", "-p", "/a").splitlines()[0].endswith("(n0,r1)")
    assert run("xenstore-rm", "/a/b") == ""
    with subprocess.Popen(
        [require.program("xenstore-watch"), "-n", "2", "/a/c"], env=environment, stdout=subprocess.PIPE, text=True
    ) as watcher:
        assert watcher.stdout is not None
        assert watcher.stdout.readline() == "/a/c\n"
        remote.write("/a/c", "three")
        assert watcher.stdout.readline() == "/a/c\n"
    assert watcher.returncode == 0


def test_xenstore_ls_shows_a_directory_of_more_than_one_message(
    server: Server, remote: RemoteHost, require: Requirements
) -> None:
    names = [f"a-rather-long-name-{number}" for number in range(1000)]
    for name in names:
        remote.write(f"/many/{name}", "")
    done = subprocess.run(
        [require.program("xenstore-ls"), "-f", "/many"],
        env={"PATH": os.environ["PATH"], "XENSTORED_RUNDIR": str(server.directory)},
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    )
    assert [line.split(" ")[0] for line in done.stdout.splitlines()] == [f"/many/{name}" for name in names]


def test_an_overlong_message_drops_its_client_and_no_other(server: Server, remote: RemoteHost) -> None:
    with Raw(server) as other, Raw(server) as hostile:
        assert other.ask(Operation.WATCH, b"/a\0t\0")[0] == Operation.WATCH
        hostile.sock.sendall(struct.pack("<4I", Operation.WRITE, 1, 0, PAYLOAD_MAX + 1))
        assert hostile.at_end()
        assert other.ask(Operation.WRITE, b"/a\0value") == (Operation.WRITE, b"OK\0")


def test_half_a_message_waits_without_holding_up_others(server: Server, remote: RemoteHost) -> None:
    message = encode(Message(Operation.READ, 5, 0, b"/tool\0"))
    with Raw(server) as slow:
        slow.sock.sendall(message[:18])
        assert still_serves(server)
        slow.sock.sendall(message[18:])
        assert slow.next() == Message(Operation.READ, 5, 0, b"")


@pytest.mark.parametrize("path", [b"/" + b"a" * 3000, b"/" + b"a/" * 1500, b"//", b"/\xff", b""])
def test_an_impossible_path_gets_the_protocols_error(server: Server, remote: RemoteHost, path: bytes) -> None:
    with Raw(server) as client:
        assert client.ask(Operation.READ, path + b"\0") == (Operation.ERROR, b"EINVAL\0")
        assert client.ask(Operation.WRITE, path + b"\0value") == (Operation.ERROR, b"EINVAL\0")


@pytest.mark.parametrize("operation", [0, 15, 16, 20, 23, 99, 0xFFFF, 2**32 - 1])
def test_an_unknown_request_gets_enosys(server: Server, remote: RemoteHost, operation: int) -> None:
    with Raw(server) as client:
        assert client.ask(operation, b"x\0") == (Operation.ERROR, b"ENOSYS\0")


def test_thousands_of_watches_and_transactions_harm_nobody(server: Server, remote: RemoteHost) -> None:
    with Raw(server) as hostile:
        for number in range(5000):
            assert hostile.ask(Operation.WATCH, b"/\0%d\0" % number)[0] == Operation.WATCH
        for _ in range(2000):
            assert hostile.ask(Operation.TRANSACTION_START, b"\0")[0] == Operation.TRANSACTION_START
        remote.write("/a", "1")
        assert still_serves(server)
    remote.write("/a", "2")


def test_a_client_that_never_reads_does_not_hold_up_others_and_loses_nothing(
    server: Server, remote: RemoteHost
) -> None:
    remote.write("/big", b"x" * 4000)
    with Raw(server) as lazy:
        question = encode(Message(Operation.READ, 7, 0, b"/big\0"))
        count = 2000
        sender = threading.Thread(target=lazy.sock.sendall, args=(question * count,))
        sender.start()
        assert still_serves(server)
        for _ in range(count):
            assert lazy.next().payload == b"x" * 4000
        sender.join()


def test_a_client_that_never_reads_is_not_listened_to_for_ever(server: Server, remote: RemoteHost) -> None:
    remote.write("/big", b"x" * 4000)
    questions = encode(Message(Operation.READ, 7, 0, b"/big\0")) * 1000
    with Raw(server) as lazy, Raw(server) as other:
        lazy.sock.setblocking(False)
        for _ in range(1000):
            try:
                lazy.sock.send(questions)
            except BlockingIOError:
                # At each answer to another client the server has come by here, too; so often makes room if it reads.
                for _ in range(200):
                    other.ask(Operation.READ, b"/none\0")
                if not select.select([], [lazy.sock], [], 0)[1]:
                    return
    pytest.fail("the server took in 21 MB of requests that nobody reads the answers to")


def test_a_reset_drops_clients_and_forgets_everything(server: Server, remote: RemoteHost) -> None:
    remote.create_domain()
    remote.fail_next("READ", errno.EIO)
    with Raw(server) as client:
        assert client.ask(Operation.DIRECTORY, b"/\0")[0] == Operation.DIRECTORY
        remote.reset()
        assert client.at_end()
    assert still_serves(server)
    assert [info.domid for info in remote.domains()] == [0]


def test_a_refused_connection_reads_end_of_file(server: Server, remote: RemoteHost) -> None:
    remote.fail_next("connect", errno.ECONNREFUSED)
    with Raw(server) as client:
        assert client.at_end()
    assert still_serves(server)


def test_changes_made_in_process_reach_clients_of_the_server(server: Server, remote: RemoteHost) -> None:
    domid = server.host.create_domain()
    with Raw(server) as client:
        assert client.ask(Operation.WATCH, b"@releaseDomain\0t\0")[0] == Operation.WATCH
        client.next()
        server.host.destroy_domain(domid)
        assert client.next().payload == b"@releaseDomain\0t\0"


def test_what_a_vanished_controller_kept_quiet_or_stalled_goes_on(server: Server, remote: RemoteHost) -> None:
    with Raw(server) as client, Raw(server, "control") as controller:
        assert client.ask(Operation.WATCH, b"/a\0t\0")[0] == Operation.WATCH
        client.next()
        for name in ("quiet", "stalled"):
            controller.sock.sendall(json.dumps({"call": name}).encode() + b"\n")
            assert json.loads(controller.sock.recv(100)) == {"result": None}
        remote.write("/a", "1")
        controller.sock.close()
        assert client.next().payload == b"/a\0t\0"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"nonsense", "Expecting value"),
        (b"[]", "get"),
        (b'{"call": "close"}', "call must be one of"),
        (b'{"call": "__init__"}', "call must be one of"),
        (b'{"call": "leave"}', "pop"),
        (b'{"call": "read", "args": [5]}', "encode"),
        (b'{"call": "create_domain", "args": 5}', "iterable"),
        (b'{"call": "create_domain", "kwargs": {"color": 1}}', "color"),
        (b"[" * 100_000, "recursion"),
    ],
)
def test_a_senseless_control_line_gets_an_error(server: Server, remote: RemoteHost, line: bytes, message: str) -> None:
    with Raw(server, "control") as controller:
        controller.sock.sendall(line + b"\n")
        answer = json.loads(controller.sock.makefile("rb").readline())
        assert answer["error"] in ("TypeError", "ValueError")
        assert message in answer["message"]


def test_an_endless_control_line_drops_its_sender(server: Server, remote: RemoteHost) -> None:
    with Raw(server, "control") as controller, contextlib.suppress(BrokenPipeError, ConnectionResetError):
        while True:
            controller.sock.sendall(b"x" * 65536)
    assert still_serves(server)


@pytest.mark.parametrize(
    ("call", "block", "result"),
    [
        ((99, 0, 0, 0, 0, 0), b"", -errno.ENOSYS),
        ((35, 0, 0, 0, 0, 0), b"", -errno.EFAULT),
        ((35, 2**64 - 1, 0, 0, 0, 0), struct.pack("=II", 6, 0x15).ljust(136, b"\0"), -errno.EFAULT),
        ((35, 0, 0, 0, 0, 0), struct.pack("=II", 6, 0x77).ljust(136, b"\0"), -errno.EACCES),
        ((35, 0, 0, 0, 0, 0), struct.pack("=II", 77, 0x15).ljust(136, b"\0"), -errno.ENOSYS),
        ((36, 0, 0, 0, 0, 0), struct.pack("=II", 2, 0x77).ljust(144, b"\0"), -errno.EACCES),
        ((36, 0, 0, 0, 0, 0), struct.pack("=II", 1, 0x15).ljust(144, b"\0"), -errno.ENOSYS),
        ((36, 0, 0, 0, 0, 0), struct.pack("=IIH", 2, 0x15, 9).ljust(144, b"\0"), -errno.ESRCH),
        ((36, 0, 0, 0, 0, 0), struct.pack("=IIH", 2, 0x15, 0).ljust(144, b"\0"), -errno.EINVAL),
        ((29, 1, 0, 0, 0, 0), b"\0" * 8, -errno.ENOSYS),
        ((34, 0, 0, 0, 0, 0), b"\0" * 16, -errno.ENOSYS),
        ((17, 77, 0, 0, 0, 0), b"", -errno.ENOSYS),
        ((17, 0, 0, 0, 0, 0), b"", 4 << 16 | 17),
    ],
)
def test_an_unserved_or_broken_hypercall_gets_xens_error(
    server: Server, remote: RemoteHost, call: tuple[int, ...], block: bytes, result: int
) -> None:
    with Raw(server, "hypercalls") as client:
        client.sock.sendall(struct.pack("=7Q", *call, len(block)) + block)
        assert struct.unpack("=qQ", client.sock.recv(100)[:16]) == (result, 0)


def test_a_hypercall_with_an_endless_structure_drops_its_sender(server: Server, remote: RemoteHost) -> None:
    with Raw(server, "hypercalls") as client:
        client.sock.sendall(struct.pack("=7Q", 35, 0, 0, 0, 0, 0, 2**63))
        assert client.at_end()
    assert still_serves(server)


def test_getdomaininfo_finds_the_next_domain_for_the_tools_that_expect_it(server: Server, remote: RemoteHost) -> None:
    remote.create_domain(domid=5)

    def ask(interface: int) -> tuple[int, int]:
        block = struct.pack("=IIH", 5, interface, 3).ljust(144, b"\0")
        with Raw(server, "hypercalls") as client:
            client.sock.sendall(struct.pack("=7Q", 36, 4096, 0, 0, 0, 0, len(block)) + block)
            answer = client.sock.recv(1000)
        result, writes = struct.unpack_from("=qQ", answer)
        return result, struct.unpack_from("=QQH", answer, 16)[2] if writes else -1

    assert ask(0x15) == (0, 5)
    assert ask(0x16) == (-errno.ESRCH, -1)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.binary(max_size=200), max_size=8), st.sampled_from(["socket", "hypercalls", "control"]))
def test_no_bytes_at_any_door_end_the_server(server: Server, pieces: list[bytes], door: str) -> None:
    with Raw(server, door) as hostile, contextlib.suppress(BrokenPipeError, ConnectionResetError):
        for piece in pieces:
            hostile.sock.sendall(piece)
    assert still_serves(server)


requests = st.tuples(
    st.sampled_from(sorted(Operation)),
    st.sampled_from([0, 0, 0, 1, 2, 77]),
    st.lists(
        st.sampled_from(
            [b"/", b"/a", b"/a/b", b"/tool", b"@releaseDomain", b"@x", b"a", b"", b"T", b"F", b"0", b"1", b"7", b"n0"]
        ),
        max_size=4,
    ),
    st.sampled_from([b"", b"\0", b"x"]),
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(requests, max_size=25))
def test_every_request_gets_exactly_one_reply_of_its_kind_or_an_error(
    server: Server, asked: list[tuple[Operation, int, list[bytes], bytes]]
) -> None:
    with Raw(server) as client:
        for operation, transaction, fields, tail in asked:
            reply, payload = client.ask(operation, b"\0".join(fields) + tail, transaction)
            assert reply in (operation, Operation.ERROR)
            assert reply != Operation.ERROR or payload.rstrip(b"\0").decode() in errno.errorcode.values()
    assert still_serves(server)


def test_the_process_ends_with_the_block_and_leaves_nothing(require: Requirements, leaves_nothing: None) -> None:
    require.program("cc")
    with launch() as (host, variables):
        directory = Path(variables["XENSTORED_RUNDIR"])
        assert host.create_domain() == 1
    assert not directory.exists()


def test_the_process_ends_with_the_one_that_started_it(tmp_path: Path) -> None:
    starter = (
        "import subprocess, sys, time\n"
        f"p = subprocess.Popen([sys.executable, '-m', 'gxl.simhost', {str(tmp_path)!r}], stdin=-1, stdout=-1)\n"
        "print(p.stdout.readline().strip().decode(), flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", starter], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        client = socket.socket(socket.AF_UNIX)
        client.connect(str(tmp_path / "socket"))
        client.settimeout(10)
        os.kill(process.pid, signal.SIGKILL)
    assert client.recv(1) == b""
    client.close()


def test_the_library_is_built_once_and_again_for_another_source(
    require: Requirements, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require.program("cc")
    monkeypatch.delenv("CC", raising=False)
    built = preload.library(tmp_path)
    before = built.stat()
    assert preload.library(tmp_path) == built
    assert built.stat() == before
    assert [path.name for path in tmp_path.iterdir()] == [built.name]


def test_without_a_compiler_the_error_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(FileNotFoundError, match=r"no-such-compiler.*set \$CC"):
        preload.library(tmp_path)


def test_a_compiler_that_fails_is_quoted(
    require: Requirements, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", f"{require.program('cc')} -no-such-option")
    with pytest.raises(OSError, match="no-such-option"):
        preload.library(tmp_path)


def test_dropping_reaches_connections_that_the_server_has_not_yet_accepted(server: Server) -> None:
    with RemoteHost(server.directory) as remote:
        for _ in range(50):
            with contextlib.closing(socket.socket(socket.AF_UNIX)) as client:
                client.settimeout(5)
                client.connect(str(server.directory / "socket"))
                remote.drop_connections()
                assert client.recv(1) == b""
