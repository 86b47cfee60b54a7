# SPDX-License-Identifier: LGPL-2.1-or-later
"""A SimHost in another process: the same methods, over the control socket of a served host."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

from gxl.simhost import control
from gxl.simhost.domains import DomainInfo


class RemoteHost:
    """A simulated host that `gxl.simhost.server` serves in `directory`. Every method is SimHost's, and `reset` is new.

    Any thread or greenlet may call, and waits until the host has answered it and those before.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._sock.connect(str(self.directory / "control"))
        except OSError:
            self._sock.close()
            raise
        self._answers = self._sock.makefile("rb")
        self._one_at_a_time = threading.Lock()

    def _call(self, name: str, *args: object, **kwargs: object) -> Any:
        with self._one_at_a_time:
            self._sock.sendall(json.dumps({"call": name, "args": args, "kwargs": kwargs}).encode() + b"\n")
            line = self._answers.readline()
        if not line:
            raise ConnectionResetError(104, "the simulated host's server is gone")
        return control.outcome(line)

    def create_domain(
        self,
        name: str | None = None,
        domid: int | None = None,
        *,
        uuid: UUID | None = None,
        kind: str = "pv",
        memory_kb: int = 256 * 1024,
        vcpus: int = 1,
        paused: bool = False,
        stub_domain_of: int | None = None,
    ) -> int:
        """See SimHost."""
        text = None if uuid is None else str(uuid)
        fields = {"kind": kind, "memory_kb": memory_kb, "vcpus": vcpus, "paused": paused}
        created = self._call("create_domain", name, domid, uuid=text, stub_domain_of=stub_domain_of, **fields)
        return int(created)

    def pause_domain(self, domid: int) -> None:
        """See SimHost."""
        self._call("pause_domain", domid)

    def unpause_domain(self, domid: int) -> None:
        """See SimHost."""
        self._call("unpause_domain", domid)

    def shutdown_domain(self, domid: int, reason: int = 0) -> None:
        """See SimHost."""
        self._call("shutdown_domain", domid, reason)

    def resume_domain(self, domid: int) -> None:
        """See SimHost."""
        self._call("resume_domain", domid)

    def mark_dying(self, domid: int) -> None:
        """See SimHost."""
        self._call("mark_dying", domid)

    def destroy_domain(self, domid: int) -> None:
        """See SimHost."""
        self._call("destroy_domain", domid)

    def add_disk(
        self,
        domid: int,
        vdev: str,
        backend_type: str = "qdisk",
        *,
        backend_domid: int = 0,
        target: str = "",
        removable: bool = True,
    ) -> None:
        """See SimHost."""
        self._call(
            "add_disk", domid, vdev, backend_type, backend_domid=backend_domid, target=target, removable=removable
        )

    def eject_disk(self, domid: int, vdev: str) -> None:
        """See SimHost."""
        self._call("eject_disk", domid, vdev)

    def domains(self) -> list[DomainInfo]:
        """See SimHost."""
        return [control.domain_info(fields) for fields in self._call("domains")]

    def domain_info(self, domid: int) -> DomainInfo:
        """See SimHost."""
        return control.domain_info(self._call("domain_info", domid))

    def changes_since(self, serial: int) -> tuple[int, list[int]]:
        """See SimHost."""
        present, domids = self._call("changes_since", serial)
        return present, domids

    def read(self, path: str) -> bytes:
        """See SimHost."""
        return str(self._call("read", path)).encode("latin-1")

    def write(self, path: str, value: str | bytes, domid: int = 0) -> None:
        """See SimHost."""
        self._call("write", path, (value.encode() if isinstance(value, str) else value).decode("latin-1"), domid)

    def rm(self, path: str) -> None:
        """See SimHost."""
        self._call("rm", path)

    def ls(self, path: str) -> list[str]:
        """See SimHost."""
        return list(self._call("ls", path))

    def release(self) -> None:
        """See SimHost."""
        self._call("release")

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """See SimHost."""
        with self._block("quiet"):
            yield

    @contextmanager
    def stalled(self) -> Iterator[None]:
        """See SimHost."""
        with self._block("stalled"):
            yield

    @contextmanager
    def down(self) -> Iterator[None]:
        """See SimHost. To programs, the socket is gone."""
        with self._block("down"):
            yield

    @contextmanager
    def _block(self, name: str) -> Iterator[None]:
        self._call(name)
        try:
            yield
        finally:
            self._call("leave")

    def fail_next(self, call: str, errno: int) -> None:
        """See SimHost. An injected failure of "connect" lets the server hang up on the next client."""
        self._call("fail_next", call, errno)

    def connect(self) -> socket.socket:
        """A xenstore connection as a tool in dom0 makes it: a non-blocking socket."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.connect(str(self.directory / "socket"))
        except OSError:
            sock.close()
            raise
        sock.setblocking(False)
        return sock

    def drop_connections(self) -> None:
        """See SimHost."""
        self._call("drop_connections")

    def reset(self) -> None:
        """Replace the host by a new one: no domains, an empty store, nothing injected, every client dropped."""
        self._call("reset")

    def close(self) -> None:
        """Hang up; the server goes on. Harmless if done before."""
        self._answers.close()
        self._sock.close()

    def __enter__(self) -> RemoteHost:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
