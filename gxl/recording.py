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

Life = tuple[int, UUID]
"""A domid, and the UUID of the domain that has it."""


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
        # Those that are there, and whether they have been shut down.
        self._present: dict[Life, bool] = {}

    def admit(self, entry: Entry) -> Life | None:
        """Create the domain that the entry is about, unless it is there, and return which it is.

        Watchers have to find it before an event of its is played: of one that is gone by then, they hear nothing.
        """
        domain = _about(entry.what)
        if domain is None or not domain.domid:
            return None
        life = (domain.domid, domain.uuid)
        if life not in self._present:
            for other in [other for other in self._present if other[0] == life[0]]:  # whose end is missing: as if lost
                self._end(other)
            self._host.create_domain(domain.name, domain.domid, uuid=domain.uuid)
            self._present[life] = False
        return life

    def play(self, entry: Entry) -> tuple[type[Event], Life] | None:
        """Let it happen. Returns what watchers are about to see of whom; None where they see nothing.

        An eject, a loss or a recovery is a matter between gxl and its host, and is not repeated.
        """
        life = self.admit(entry)
        if life is None:
            return None
        if isinstance(entry.what, DomainShutdown):
            self._host.shutdown_domain(life[0], entry.what.shutdown_reason)
            known, self._present[life] = self._present[life], True
            return None if known else (DomainShutdown, life)
        if isinstance(entry.what, DomainDeath):
            self._end(life)
            return DomainDeath, life
        return None

    def _end(self, life: Life) -> None:
        del self._present[life]
        self._host.destroy_domain(life[0])


def _about(what: RecordedDomain | Event | str) -> RecordedDomain | None:
    if isinstance(what, (DomainShutdown, DomainDeath)):
        return RecordedDomain(what.domid, what.domuuid or UUID(int=what.domid), what.name)
    return what if isinstance(what, RecordedDomain) else None


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
