# SPDX-License-Identifier: LGPL-2.1-or-later
"""The control socket's language: one JSON object a line, each a call of a SimHost method or its outcome.

`{"call": "create_domain", "args": ["web"], "kwargs": {}}` is answered by `{"result": 1}`, or by
`{"error": "OSError", "errno": 17, "message": "…"}`. Bytes travel as the text that has the same code points.
"""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from typing import Any, Protocol
from uuid import UUID

from gxl.simhost.domains import DomainInfo, Kind
from gxl.simhost.host import SimHost

LINE_MAX = 1024 * 1024

CALLS = frozenset(
    {
        "create_domain",
        "pause_domain",
        "unpause_domain",
        "shutdown_domain",
        "resume_domain",
        "mark_dying",
        "destroy_domain",
        "add_disk",
        "eject_disk",
        "domains",
        "domain_info",
        "changes_since",
        "read",
        "write",
        "rm",
        "ls",
        "release",
        "fail_next",
        "drop_connections",
    }
)
BLOCKS = frozenset({"quiet", "stalled", "down"})


class Served(Protocol):
    """Whoever serves a host, and can replace it by a new one."""

    host: SimHost

    def reset(self) -> None: ...

    def down(self) -> AbstractContextManager[None]: ...


Blocks = list[AbstractContextManager[None]]
"""The blocks, `quiet` and others, that a connection is in."""


def call(served: Served, blocks: Blocks, line: bytes) -> bytes:
    """Carry out the call in `line`, and return the line that answers it."""
    try:
        answer = {"result": _carry_out(served, blocks, line)}
    except OSError as error:
        answer = {"error": "OSError", "errno": error.errno, "message": error.strerror}
    except Exception as error:
        # Whatever the line holds, it must not end the server: somebody else's programs run on it.
        kind = "TypeError" if isinstance(error, TypeError) else "ValueError"
        answer = {"error": kind, "message": str(error)}
    return json.dumps(answer).encode() + b"\n"


def _carry_out(served: Served, blocks: Blocks, line: bytes) -> object:
    request = json.loads(line)
    name, args, kwargs = request.get("call"), request.get("args", []), request.get("kwargs", {})
    if name == "reset":
        served.reset()
        return None
    if name == "leave":
        blocks.pop().__exit__(None, None, None)
        return None
    if name in BLOCKS:
        block: AbstractContextManager[None] = getattr(served if name == "down" else served.host, name)()
        block.__enter__()
        blocks.append(block)
        return None
    if name not in CALLS:
        raise ValueError(f"call must be one of {', '.join(sorted(CALLS | BLOCKS | {'leave', 'reset'}))}, not {name!r}")
    if name == "write":
        path, value, *writer = args
        args = [path, value.encode("latin-1"), *writer]
    if kwargs.get("uuid") is not None:
        kwargs = {**kwargs, "uuid": UUID(kwargs["uuid"])}
    return _to_json(getattr(served.host, name)(*args, **kwargs))


def _to_json(value: object) -> object:
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, DomainInfo):
        return {**value._asdict(), "uuid": str(value.uuid), "kind": value.kind.value}
    if isinstance(value, (list, tuple)):
        return [_to_json(item) for item in value]
    return value


def domain_info(fields: dict[str, Any]) -> DomainInfo:
    """The DomainInfo that came as JSON."""
    return DomainInfo(**{**fields, "uuid": UUID(fields["uuid"]), "kind": Kind(fields["kind"])})


def outcome(line: bytes) -> Any:
    """The result in an answer, or the error that it tells of, raised."""
    answer = json.loads(line)
    if "error" in answer:
        if answer["error"] == "OSError":
            raise OSError(answer["errno"], answer["message"])
        raise (TypeError if answer["error"] == "TypeError" else ValueError)(answer["message"])
    return answer["result"]
