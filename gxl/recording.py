# SPDX-License-Identifier: LGPL-2.1-or-later
"""Recordings of a host's domain events, and what to do to a simulated host so that it all happens again.

A recording is a text file of JSON lines, in the order of what happened:

* the header, `{"gxl_recording": 1, "gxl": …, "engine": …, "start": …}`: the format's version, who wrote it, when;
* `{"at": 0.0, "domain": {"domid": 7, "uuid": …, "name": …}}`: a domain that was there, or appeared, `at` seconds later;
* `{"at": 1.5, "event": {…}}`: an event, as Event.to_json writes it;
* `{"at": 9.0, "end": …}`, the last line: why the recording ended. Without it, it was cut off.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol
from uuid import UUID

from gxl.events import DomainDeath, DomainShutdown, Event, from_json

VERSION = 1


class RecordedDomain(NamedTuple):
    """A domain that was there when the recording began, or appeared."""

    domid: int
    uuid: UUID
    name: str | None


class Entry(NamedTuple):
    """What a line says, `at` seconds after the recording began; `what` is the reason for an end."""

    at: float
    what: RecordedDomain | Event | str


class BrokenRecording(ValueError):
    """The file is not a recording, or a broken one: the message says in which line, and what is wrong."""


class Host(Protocol):
    """What is needed of a simulated host: SimHost and RemoteHost have it."""

    def create_domain(self, name: str | None = None, domid: int | None = None, *, uuid: UUID | None = None) -> int:
        """See SimHost."""

    def shutdown_domain(self, domid: int, reason: int = 0) -> None:
        """See SimHost."""

    def destroy_domain(self, domid: int) -> None:
        """See SimHost."""


def header(gxl: str, engine: str, start: str) -> str:
    """The first line."""
    return json.dumps({"gxl_recording": VERSION, "gxl": gxl, "engine": engine, "start": start})


def domain_line(at: float, domain: RecordedDomain) -> str:
    """The line for a domain that is there."""
    return json.dumps({"at": round(at, 6), "domain": domain._asdict() | {"uuid": str(domain.uuid)}})


def event_line(at: float, event: Event, name: str | None) -> str:
    """The line for an event, whose domain is called `name`."""
    return json.dumps({"at": round(at, 6), "event": event.as_dict() | {"name": name}})


def end_line(at: float, reason: str) -> str:
    """The last line."""
    return json.dumps({"at": round(at, 6), "end": reason})


def parse(lines: Iterable[bytes]) -> list[Entry]:
    """What a recording says. BrokenRecording names the line that is wrong."""
    entries: list[Entry] = []
    number = 0
    for number, data in enumerate(lines, 1):
        try:
            if entries and isinstance(entries[-1].what, str):
                raise ValueError("something follows the end of the recording")
            if not data.endswith(b"\n"):
                raise ValueError("it breaks off in the middle; without it, the lines before can be replayed")
            content = _object(data)
            if number == 1:
                _check_header(content)
            else:
                entries.append(_entry(content, entries[-1].at if entries else 0.0))
        except ValueError as error:
            raise BrokenRecording(f"line {number}: {error}") from None
    if not number:
        raise BrokenRecording("the file is empty: not even the header of a recording is there")
    return entries


def complete(entries: list[Entry]) -> bool:
    """Whether the recording has an end, and was not cut off."""
    return bool(entries) and isinstance(entries[-1].what, str)


class Player:
    """Does to an empty simulated host, one entry after the other, what lets its watchers see what was recorded."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._present: dict[int, UUID] = {}
        self._shut_down: set[int] = set()

    def play(self, entry: Entry) -> type[Event] | None:
        """Let it happen. Returns the type of the event that watchers are about to see; None where they see nothing.

        An eject, a loss or a recovery is a matter between gxl and its host, and is not repeated.
        """
        what = entry.what
        if isinstance(what, RecordedDomain):
            self._create(what)
        elif isinstance(what, DomainShutdown):
            self._create(RecordedDomain(what.domid, what.domuuid or UUID(int=what.domid), what.name))
            self._host.shutdown_domain(what.domid, what.shutdown_reason)
            if what.domid not in self._shut_down:
                self._shut_down.add(what.domid)
                return DomainShutdown
        elif isinstance(what, DomainDeath):
            self._create(RecordedDomain(what.domid, what.domuuid or UUID(int=what.domid), what.name))
            self._present.pop(what.domid, None)
            self._shut_down.discard(what.domid)
            self._host.destroy_domain(what.domid)
            return DomainDeath
        return None

    def _create(self, domain: RecordedDomain) -> None:
        present = self._present.get(domain.domid)
        if not domain.domid or present == domain.uuid:
            return
        if present is not None:  # whose end is missing: such as one that was lost
            self._host.destroy_domain(domain.domid)
            self._shut_down.discard(domain.domid)
        self._present[domain.domid] = domain.uuid
        self._host.create_domain(domain.name, domain.domid, uuid=domain.uuid)


def _object(data: bytes) -> dict[str, Any]:
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"it is not a JSON object: {data[:80]!r}")
    return content


def _check_header(content: dict[str, Any]) -> None:
    version = content.get("gxl_recording")
    if version is None:
        raise ValueError('it is not the header of a recording, which has a "gxl_recording"')
    if version != VERSION:
        raise ValueError(f"the recording's format is version {version!r}; this gxl reads version {VERSION}")


def _entry(content: dict[str, Any], before: float) -> Entry:
    at = content.pop("at", None)
    if isinstance(at, bool) or not isinstance(at, (int, float)) or not before <= at <= sys.float_info.max:
        raise ValueError(f'"at" must be seconds since the start, and no less than in the line before, not {at!r}')
    match content:
        case {"domain": dict(fields)}:
            return Entry(float(at), _domain(fields))
        case {"event": dict(fields)}:
            event = from_json(json.dumps(fields))
            if isinstance(event, (DomainShutdown, DomainDeath)) and not 0 < event.domid < 0x7FF0:
                raise ValueError(f"a guest's domid is from 1 to 32751, not {event.domid}")
            if isinstance(event, DomainShutdown) and not 0 <= event.shutdown_reason <= 255:
                raise ValueError(f"a shutdown reason is from 0 to 255, not {int(event.shutdown_reason)}")
            return Entry(float(at), event)
        case {"end": str(reason)}:
            return Entry(float(at), reason)
    raise ValueError(f'a line has a "domain", an "event" or an "end", not {", ".join(map(repr, content)) or "nothing"}')


def _domain(fields: dict[str, Any]) -> RecordedDomain:
    domid, text, name = (fields.get(key) for key in RecordedDomain._fields)
    if isinstance(domid, bool) or not isinstance(domid, int) or not 0 <= domid < 0x7FF0:
        raise ValueError(f"a domid is from 0 to 32751, not {domid!r}")
    if not isinstance(name, (str, type(None))):
        raise ValueError(f"a domain's name is text or null, not {name!r}")
    try:
        uuid = UUID(text)
    except (ValueError, TypeError, AttributeError):
        raise ValueError(f"a domain's uuid is a UUID, not {text!r}") from None
    return RecordedDomain(domid, uuid, name)
