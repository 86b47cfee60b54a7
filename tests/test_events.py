# SPDX-License-Identifier: LGPL-2.1-or-later
import copy
import json
import pickle
import re
import typing
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from requirements import Requirements

from gxl.events import (
    BY_TYPE,
    EVENTMASK_ALL,
    Disk,
    DiskBackend,
    DiskEject,
    DiskFormat,
    DomainCreateConsoleAvailable,
    DomainDeath,
    DomainShutdown,
    Event,
    EventsLost,
    EventType,
    OperationComplete,
    Resynced,
    ShutdownReason,
    UnknownEvent,
    from_json,
    mask,
    shutdown_reason,
)

SOME_UUID = UUID("12345678-9abc-def0-1234-56789abcdef0")

domids = st.integers(0, 2**32 - 1)
c_ints = st.integers(-(2**31), 2**31 - 1)
texts = st.none() | st.text()
# From the first to the last second of a calendar with four digits.
moments = st.floats(-62135596800, 253402300799)
types = st.lists(st.sampled_from(EventType)).map(tuple)
common = st.fixed_dictionaries(
    {
        "domuuid": st.none() | st.uuids(),
        "for_user": st.integers(0, 2**64 - 1),
        "seq": st.none() | st.integers(1, 2**63 - 1),
        "time": st.none() | moments,
        "name": texts,
    }
)
disks = st.builds(
    Disk,
    backend_domid=domids,
    backend_domname=texts,
    pdev_path=texts,
    vdev=texts,
    backend=st.sampled_from(DiskBackend) | st.integers(5, 255),
    format=st.sampled_from(DiskFormat) | st.integers(7, 255),
    script=texts,
    removable=c_ints,
    readwrite=c_ints,
    is_cdrom=c_ints,
)
events: st.SearchStrategy[Event] = st.one_of(
    st.builds(lambda d, r, c: DomainShutdown(d, r, **c), domids, st.integers(0, 255), common),
    st.builds(lambda d, c: DomainDeath(d, **c), domids, common),
    st.builds(lambda d, v, k, c: DiskEject(d, v, k, **c), domids, texts, disks, common),
    st.builds(lambda d, r, c: OperationComplete(d, r, **c), domids, c_ints, common),
    st.builds(lambda d, c: DomainCreateConsoleAvailable(d, **c), domids, common),
    st.builds(lambda d, r, s, m, c: Resynced(d, r, s, m, **c), domids, st.text(), moments, types, common),
    st.builds(lambda d, n, c: EventsLost(d, n, **c), domids, st.integers(1, 2**63 - 1), common),
    st.builds(lambda d, t, c: UnknownEvent(d, t, **c), domids, st.integers(6, 61), common),
)

ONE_OF_EACH: tuple[Event, ...] = (
    DomainShutdown(7, ShutdownReason.CRASH),
    DomainDeath(7),
    DiskEject(7, "xvda", Disk(vdev="xvda", format=DiskFormat.EMPTY)),
    OperationComplete(7, -3),
    DomainCreateConsoleAvailable(7),
    Resynced(0, "xenstored is back", 1764144000.25, (EventType.DOMAIN_SHUTDOWN, EventType.DISK_EJECT)),
    EventsLost(0, 12),
    UnknownEvent(7, 6),
)


def test_every_event_type_has_one_class() -> None:
    assert {cls.type for cls in BY_TYPE.values()} == set(EventType)
    assert [type(event) for event in ONE_OF_EACH] == [*BY_TYPE.values(), UnknownEvent]


def test_the_numbers_are_those_of_the_header(require: Requirements) -> None:
    header = require.file(Path("/usr/include/_libxl_types.h")).read_text()

    def numbers(prefix: str) -> dict[str, int]:
        return {name: int(number) for name, number in re.findall(rf"\bLIBXL_{prefix}_(\w+) = (-?\d+)", header)}

    def ours(cls: type[EventType | ShutdownReason | DiskBackend | DiskFormat]) -> dict[str, int]:
        return {member.name: int(member) for member in cls}

    assert numbers("EVENT_TYPE") == {name: number for name, number in ours(EventType).items() if number < 62}
    # Unknown is -1, which a reason of eight bits without a sign can't be.
    assert numbers("SHUTDOWN_REASON") == {**ours(ShutdownReason), "UNKNOWN": -1}
    assert numbers("DISK_BACKEND") == ours(DiskBackend)
    assert numbers("DISK_FORMAT") == ours(DiskFormat)


@given(events)
@example(DomainDeath(1, time=1 / 3))
@example(DomainDeath(1, time=1e-300))
@example(DomainDeath(1, time=1795341780.1234567))
@example(DomainDeath(1, time=-60000000000.0))  # in the year 68, which has two digits
@example(DomainDeath(1, time=-0.25))
@example(DomainDeath(1, time=-5e-324))
def test_an_event_survives_json_pickling_and_copying(event: Event) -> None:
    assert from_json(event.to_json()) == event
    assert type(from_json(event.to_json())) is type(event)
    assert pickle.loads(pickle.dumps(event)) == event
    assert copy.copy(event) == event


@given(events)
def test_json_is_one_line_with_every_key(event: Event) -> None:
    text = event.to_json()
    assert "\n" not in text
    assert {"seq", "time", "type", "domid", "uuid", "name", "for_user"} <= json.loads(text).keys()


def test_a_moment_before_1970_is_spelled_as_everybody_reads_it() -> None:
    assert json.loads(DomainDeath(1, time=-1.25).to_json())["time"] == "1969-12-31T23:59:58.75Z"


def test_json_spells_values_for_people_and_programs() -> None:
    event = DomainShutdown(
        7, ShutdownReason.POWEROFF, domuuid=SOME_UUID, for_user=2**64 - 1, seq=3, time=0.5, name="web1"
    )
    assert json.loads(event.to_json()) == {
        "seq": 3,
        "time": "1970-01-01T00:00:00.5Z",
        "type": "domain_shutdown",
        "domid": 7,
        "uuid": str(SOME_UUID),
        "name": "web1",
        "for_user": 2**64 - 1,
        "shutdown_reason": "poweroff",
    }
    eject = DiskEject(7, "hdc", Disk(vdev="hdc", backend=DiskBackend.QDISK, format=99))
    content = json.loads(eject.to_json())
    assert content["vdev"] == "hdc"
    assert content["disk"]["backend"] == "qdisk"
    assert content["disk"]["format"] == 99
    assert json.loads(UnknownEvent(7, 42).to_json())["type"] == 42


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "null",
        "5",
        "[]",
        "{}",
        "[" * 100_000,
        '{"type": "domain_death"}',
    ],
)
def test_json_that_is_no_event_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not an event that gxl wrote"):
        from_json(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not JSON: "),
        ("5", "the event must be an object, not 5"),
        ("{}", "type is missing"),
        ('{"type": "domain_death"}', "uuid is missing"),
        (
            DomainDeath(7).to_json().replace("null", '"\\u001b[2J"', 1),
            r"seq must be an integer from 1 to \d+, not '\\x1b\[2J'",
        ),
        (
            Resynced(7, "why", 0.5).to_json().replace('"why"', "[" * 500 + "]" * 500),
            r"reason must be a string, not \[{80}…",
        ),
    ],
)
def test_the_error_names_the_field_what_was_expected_and_what_was_found(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        from_json(text)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("event", "field", "value"),
    [
        (DomainDeath(7), "type", "domain_birth"),
        (DomainDeath(7), "type", None),
        (DomainDeath(7), "type", True),
        (DomainDeath(7), "domid", "7"),
        (DomainDeath(7), "domid", True),
        (DomainDeath(7), "domid", None),
        (DomainDeath(7), "uuid", "no"),
        (DomainDeath(7), "uuid", 5),
        (DomainDeath(7), "uuid", SOME_UUID.hex),
        (DomainDeath(7), "uuid", SOME_UUID.urn),
        (DomainDeath(7), "type", 64),
        (DomainDeath(7), "domid", -1),
        (DomainDeath(7), "domid", 2**32),
        (DomainDeath(7), "for_user", 2**64),
        (DomainDeath(7), "seq", 0),
        (DomainDeath(7), "time", "2026-11-26T08:15:00.25"),
        (DomainDeath(7), "time", "2026-11-26T08:15:00.2e5Z"),
        (DomainDeath(7), "time", "2026-11-26T08:15:00.Z"),
        (DomainDeath(7), "time", "2026-13-26T08:15:00Z"),
        (DomainShutdown(7, 0), "shutdown_reason", -1),
        (DomainShutdown(7, 0), "shutdown_reason", "CRASH"),
        (EventsLost(0, 1), "count", 0),
        (OperationComplete(7, 0), "rc", 2**31),
        (DomainDeath(7), "for_user", 1.5),
        (DomainDeath(7), "seq", "1"),
        (DomainDeath(7), "time", 5),
        (DomainDeath(7), "time", "2026-11-26T08:00:00.1e300Z"),
        (DomainDeath(7), "time", "yesterday"),
        (DomainDeath(7), "name", 5),
        (DomainShutdown(7, 0), "shutdown_reason", "boredom"),
        (DomainShutdown(7, 0), "shutdown_reason", None),
        (OperationComplete(7, 0), "rc", None),
        (EventsLost(0, 1), "count", "many"),
        (Resynced(0, "why", 1.5), "reason", None),
        (Resynced(0, "why", 1.5), "since", 5),
        (Resynced(0, "why", 1.5), "missed", ["boredom"]),
        (Resynced(0, "why", 1.5), "missed", 5),
        (DiskEject(7, None, Disk()), "vdev", 5),
        (DiskEject(7, None, Disk()), "disk", None),
        (DiskEject(7, None, Disk()), "disk", {}),
        (DiskEject(7, None, Disk()), "disk", {**DiskEject(7, None, Disk()).as_dict()["disk"], "backend": "floppy"}),
        (DiskEject(7, None, Disk()), "disk", {**DiskEject(7, None, Disk()).as_dict()["disk"], "script": 5}),
    ],
)
def test_json_with_a_wrong_value_is_refused(event: Event, field: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"^not an event that gxl wrote: {field}.* (must be|is missing)"):
        from_json(json.dumps({**event.as_dict(), field: value}))


@given(events, st.data())
def test_json_with_anything_in_a_field_is_the_event_again_or_an_error_that_names_it(
    event: Event, data: st.DataObject
) -> None:
    content = event.as_dict()
    # Another type has other fields, which may be what is missing.
    field = data.draw(st.sampled_from(sorted(content.keys() - {"type"})))
    strange: st.SearchStrategy[object] = st.one_of(
        *(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.lists(st.none()), st.just({}))
    )
    content[field] = data.draw(strange)
    try:
        again = from_json(json.dumps(content)).as_dict()
    except ValueError as error:
        said = str(error)
    else:
        said = f"not an event that gxl wrote: {field}" if again.keys() == content.keys() else "another event"
    assert said.startswith(f"not an event that gxl wrote: {field}")


@given(st.text())
def test_any_text_is_an_event_or_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="not an event that gxl wrote"):
        from_json(text)


def test_an_unknown_type_that_has_a_known_number_comes_back_as_it_was() -> None:
    for number in (2, 6, 42):
        assert from_json(UnknownEvent(7, number).to_json()) == UnknownEvent(7, number)


@given(st.lists(st.integers(1), unique=True))
def test_events_of_one_context_are_ordered_by_seq(seqs: list[int]) -> None:
    mixed = [DomainShutdown(9, 0, seq=seq) if place % 2 else DomainDeath(7, seq=seq) for place, seq in enumerate(seqs)]
    assert [event.seq for event in sorted(mixed)] == sorted(seqs)
    assert [event.seq for event in sorted(mixed, reverse=True)] == sorted(seqs, reverse=True)


def test_events_without_seq_and_other_things_are_in_no_order() -> None:
    with pytest.raises(TypeError, match="no seq"):
        sorted([DomainDeath(7), DomainDeath(8, seq=1)])
    with pytest.raises(TypeError, match="not supported"):
        DomainDeath(7, seq=1) < 5  # noqa: B015  # type: ignore[operator]  # that it raises is what is tested
    assert not DomainDeath(7, seq=1) > DomainDeath(8, seq=1)


def test_an_event_is_matched_by_its_fields() -> None:
    found = []
    for event in (DomainShutdown(7, 3, name="web1"), DomainShutdown(8, 0), DomainShutdown(9, 200), DomainDeath(10)):
        match event:
            case DomainShutdown(domid=domid, shutdown_reason=ShutdownReason.CRASH, name=name):
                found.append(f"{name} ({domid}) crashed")
            case DomainShutdown(domid, ShutdownReason()):
                found.append(f"{domid} shut down")
            case DomainShutdown(domid, int(number)):
                found.append(f"{domid} says {number}")
            case DomainDeath(domid):
                found.append(f"{domid} died")
    assert found == ["web1 (7) crashed", "8 shut down", "9 says 200", "10 died"]


def test_json_may_say_more_than_this_version_knows() -> None:
    content = DiskEject(7, "xvda", Disk()).as_dict()
    content["colour"] = content["disk"]["colour"] = "green"
    assert from_json(json.dumps(content)) == DiskEject(7, "xvda", Disk())


@pytest.mark.parametrize("event", ONE_OF_EACH, ids=lambda event: type(event).__name__)
def test_an_event_is_immutable(event: Event) -> None:
    for field in (*event._fields(), "type", "colour"):
        with pytest.raises(AttributeError):
            setattr(event, field, 1)
        with pytest.raises(AttributeError):
            delattr(event, field)
    assert not hasattr(event, "__dict__")


def test_a_disk_is_immutable() -> None:
    with pytest.raises(AttributeError):
        Disk().vdev = "xvda"  # type: ignore[misc]  # that it can't be assigned is what is tested


@given(events, events)
def test_events_are_equal_when_all_that_they_say_is(one: Event, other: Event) -> None:
    same = type(one) is type(other) and one.as_dict() == other.as_dict()
    assert (one == other) is same
    assert (hash(one) == hash(other)) is same


def test_every_field_takes_part_in_equality_and_repr() -> None:
    assert UnknownEvent(7, 6) != UnknownEvent(7, 8)
    assert DomainShutdown(7, 1) != DomainShutdown(7, 2)
    assert DomainDeath(7) != DomainShutdown(7, 0)
    assert DomainDeath(7, seq=1) != DomainDeath(7, seq=2)
    assert repr(UnknownEvent(7, 6, seq=2)) == (
        "UnknownEvent(domid=7, type=6, domuuid=None, for_user=0, seq=2, time=None, name=None)"
    )
    assert repr(DomainShutdown(7, 3)).startswith("DomainShutdown(domid=7, shutdown_reason=<ShutdownReason.CRASH: 3>,")


def test_events_match_by_their_own_fields() -> None:
    found: list[tuple[object, object]] = []
    for event in ONE_OF_EACH:
        match event:
            case DomainShutdown(domid, reason):
                found.append((domid, reason))
            case DiskEject(domid, vdev):
                found.append((domid, vdev))
            case OperationComplete(domid, rc):
                found.append((domid, rc))
            case UnknownEvent(domid, kind):
                found.append((domid, kind))
            case DomainDeath(domid) | DomainCreateConsoleAvailable(domid):
                found.append((domid, None))
            case Resynced(what) | EventsLost(what):
                found.append((0, what))
    assert found == [(7, 3), (7, None), (7, "xvda"), (7, -3), (7, None), (0, "xenstored is back"), (0, 12), (7, 6)]


@given(events, common)
def test_a_stamped_copy_says_the_same_with_the_contexts_stamp(event: Event, stamp: dict[str, typing.Any]) -> None:
    before = event.as_dict()
    copied = event.stamped(**stamp)
    assert type(copied) is type(event)
    assert all(getattr(copied, field) == getattr(event, field) for field in ("domid", "type", *event.own))
    assert all(getattr(copied, field) == value for field, value in stamp.items())
    assert event.as_dict() == before


def test_a_reason_without_a_name_stays_a_number() -> None:
    assert shutdown_reason(0) is ShutdownReason.POWEROFF
    assert shutdown_reason(255) == 255
    assert not isinstance(shutdown_reason(255), ShutdownReason)
    assert DomainShutdown(7, 2).shutdown_reason is ShutdownReason.SUSPEND
    assert DomainShutdown(7, 200).shutdown_reason == 200


def test_a_mask_lets_through_what_it_names() -> None:
    assert mask() == 0
    assert mask(EventType.DOMAIN_SHUTDOWN) == mask(DomainShutdown) == 0b10
    assert mask(DomainShutdown, EventType.DOMAIN_DEATH, DomainDeath) == 0b110
    assert mask(EventsLost) == 1 << 63
    assert mask(*EventType) & ~EVENTMASK_ALL == 0


@pytest.mark.parametrize("entry", [2, True, "domain_death", None, UnknownEvent, Event, int, DomainDeath(7)])
def test_a_mask_of_anything_else_is_refused(entry: typing.Any) -> None:
    with pytest.raises(TypeError, match=re.escape(repr(entry))):
        mask(entry)
