# SPDX-License-Identifier: LGPL-2.1-or-later
"""Cases for evenable_disk_eject: what a guest's request becomes, and what a hostile guest can make of it."""

from __future__ import annotations

import errno
import signal
from typing import Any

import pytest

from gxl.errors import Fail, MisuseError
from gxl.events import Disk, DiskBackend, DiskEject, DiskFormat
from gxl.testing import differences
from gxl.testing.engines.rig import Rig, signal_that_ends, users


def _frontend(domid: int, devid: int = 51712) -> str:
    return f"/local/domain/{domid}/device/vbd/{devid}"


def an_eject_is_reported_with_what_the_store_says_of_the_disk(rig: Rig) -> None:
    domid = rig.domain_with_disk()
    rig.engine.evenable_disk_eject(domid, "xvda", 7)
    rig.host.eject_disk(domid, "xvda")
    disk = Disk(
        backend_domid=0,
        pdev_path="",
        vdev="xvda",
        backend=DiskBackend.QDISK,
        format=DiskFormat.EMPTY,
        removable=1,
        readwrite=0,
        is_cdrom=1,
    )
    assert rig.events() == [DiskEject(domid, "xvda", disk, for_user=7)]


def the_request_is_acknowledged_so_that_the_guest_can_make_another(rig: Rig) -> None:
    domid = rig.domain_with_disk()
    rig.engine.evenable_disk_eject(domid, "xvda", 1)
    for _ in range(3):
        rig.host.eject_disk(domid, "xvda")
        assert users(rig.events()) == [1]
        assert rig.host.read(_frontend(domid) + "/eject") == b""


def the_event_names_the_disk(rig: Rig) -> None:
    domid = rig.domain_with_disk("xvda")
    rig.engine.evenable_disk_eject(domid, "51712")
    rig.host.eject_disk(domid, "xvda")
    [event] = rig.events()
    assert isinstance(event, DiskEject)
    assert event.vdev == rig.expected(differences.EJECT_VDEV)
    assert event.disk.vdev == "xvda"


def several_evgens_on_one_disk(rig: Rig) -> None:
    domid = rig.domain_with_disk()
    rig.engine.evenable_disk_eject(domid, "xvda", 1)
    rig.engine.evenable_disk_eject(domid, "xvda", 2)
    rig.host.eject_disk(domid, "xvda")
    assert users(rig.events()) == rig.expected(differences.EJECTS_OF_ONE_DISK)


def disks_are_told_apart(rig: Rig) -> None:
    domid = rig.domain_with_disk("xvda")
    rig.host.add_disk(domid, "hdc")
    other = rig.domain_with_disk("xvda")
    rig.engine.evenable_disk_eject(domid, "xvda", 1)
    rig.engine.evenable_disk_eject(domid, "hdc", 2)
    rig.engine.evenable_disk_eject(other, "xvda", 3)
    rig.settle()
    for ejected, vdev in ((other, "xvda"), (domid, "hdc"), (domid, "xvda")):
        rig.host.eject_disk(ejected, vdev)
    events = rig.events()
    assert users(events) == [3, 2, 1]
    assert [(event.domid, getattr(event, "vdev", None)) for event in events] == [
        (other, "xvda"),
        (domid, "hdc"),
        (domid, "xvda"),
    ]


def every_way_to_name_a_disk_finds_it(rig: Rig) -> None:
    for vdev, devid in (
        ("xvdb", 51728),
        ("xvdb3", 51731),
        ("d2p0", 51744),
        ("hdb", 832),
        ("hdc", 5632),
        ("sdb1", 2065),
        ("xvdaa", (1 << 28) | (26 << 8)),
        ("51760", 51760),
    ):
        domid = rig.domain_with_disk(vdev)
        evgen = rig.engine.evenable_disk_eject(domid, vdev, devid)
        rig.host.write(_frontend(domid, devid) + "/eject", "eject")
        assert users(rig.events()) == [devid], vdev
        rig.engine.evdisable_disk_eject(evgen)


def a_request_from_before_the_evgen_is_reported(rig: Rig) -> None:
    domid = rig.domain_with_disk()
    rig.host.eject_disk(domid, "xvda")
    rig.engine.evenable_disk_eject(domid, "xvda", 1)
    assert users(rig.events()) == [1]


def only_the_word_eject_is_a_request(rig: Rig) -> None:
    domid = rig.domain_with_disk()
    rig.engine.evenable_disk_eject(domid, "xvda")
    for value in ("", "eject ", "EJECT", "insert", b"\xff\xfe", "eject\n"):
        rig.host.write(_frontend(domid) + "/eject", value)
        assert rig.events() == []
    rig.host.rm(_frontend(domid) + "/eject")
    assert rig.events() == []


def the_kind_of_backend_is_reported(rig: Rig) -> None:
    for backend, expected in (
        ("qdisk", DiskBackend.QDISK),
        ("vbd", DiskBackend.TAP),
        ("vbd3", DiskBackend.TAP),
        ("tap", DiskBackend.TAP),
        ("9pfs", DiskBackend.UNKNOWN),
    ):
        domid = rig.domain()
        rig.host.add_disk(domid, "xvda", backend)
        evgen = rig.engine.evenable_disk_eject(domid, "xvda")
        rig.host.eject_disk(domid, "xvda")
        [event] = rig.events()
        assert isinstance(event, DiskEject)
        if backend != "9pfs":
            assert event.disk.backend == expected, backend
        rig.engine.evdisable_disk_eject(evgen)


def the_backends_domain_is_reported(rig: Rig) -> None:
    driver, domid = rig.domain(), rig.domain()
    rig.host.add_disk(domid, "xvda", backend_domid=driver)
    rig.engine.evenable_disk_eject(domid, "xvda")
    rig.host.eject_disk(domid, "xvda")
    [event] = rig.events()
    assert isinstance(event, DiskEject)
    assert event.disk.backend_domid == driver


def a_device_that_is_gone_is_not_reported_as_ejected(rig: Rig) -> None:
    domid = rig.domain_with_disk()
    rig.engine.evenable_disk_eject(domid, "xvda")
    rig.host.rm(_frontend(domid) + "/backend")
    rig.host.eject_disk(domid, "xvda")
    assert rig.events() == []
    assert rig.host.read(_frontend(domid) + "/eject") == b""


def a_disk_that_does_not_exist_is_accepted_and_reported_once_it_does(rig: Rig) -> None:
    domid = rig.domain()
    rig.engine.evenable_disk_eject(domid, "xvda", 1)
    rig.engine.evenable_disk_eject(31000, "xvda", 2)
    assert rig.events() == []
    rig.host.add_disk(domid, "xvda")
    rig.host.eject_disk(domid, "xvda")
    [event] = rig.events()
    assert isinstance(event, DiskEject)
    # The name was looked up when the evgen was enabled; then there was none.
    assert (event.for_user, event.vdev, event.disk.vdev) == (1, "xvda", None)


def what_the_guest_calls_its_disk_is_only_its_claim(rig: Rig) -> None:
    domid = rig.domain_with_disk()
    rig.host.write(_frontend(domid) + "/dev", b"\xff<evil>\x1b")
    rig.host.write(_frontend(domid) + "/backend", "/local/domain/7/backend/qdisk/9/9")
    rig.engine.evenable_disk_eject(domid, "xvda")
    rig.host.eject_disk(domid, "xvda")
    [event] = rig.events()
    assert isinstance(event, DiskEject)
    assert event.domid == domid
    assert event.disk.vdev == "\\xff<evil>\x1b"
    assert (event.disk.backend_domid, event.disk.backend) == (7, DiskBackend.QDISK)


def with_a_stub_domain_its_disk_is_watched_and_the_guest_is_named(rig: Rig) -> None:
    domid = rig.domain(kind="hvm")
    rig.host.add_disk(domid, "xvda")
    stub = rig.domain(stub_domain_of=domid)
    rig.engine.evenable_disk_eject(domid, "xvda", 1)
    rig.host.write(_frontend(stub) + "/eject", "eject")
    [event] = rig.events()
    assert (event.domid, event.for_user) == (domid, 1)


def events_from_before_a_disable_are_still_returned_and_none_after_it_are(rig: Rig) -> None:
    domid = rig.domain_with_disk()
    evgen = rig.engine.evenable_disk_eject(domid, "xvda", 1)
    rig.host.eject_disk(domid, "xvda")
    rig.settle()
    rig.engine.evdisable_disk_eject(evgen)
    rig.host.eject_disk(domid, "xvda")
    assert users(rig.events()) == [1]
    with pytest.raises(MisuseError):
        rig.engine.evdisable_disk_eject(evgen)


def a_store_that_refuses_to_watch_fails_the_call_and_changes_nothing(rig: Rig) -> None:
    domid = rig.domain_with_disk()

    def enable(where: Rig) -> None:
        rig.host.fail_next("WATCH", errno.EIO)
        where.engine.evenable_disk_eject(domid, "xvda")

    if rig.expected(differences.FAILED_EJECT_WATCH) == "crashes":
        assert signal_that_ends(lambda: enable(rig.fresh())) == signal.SIGSEGV
    else:
        with pytest.raises(Fail):
            enable(rig)
    rig.host.eject_disk(domid, "xvda")
    assert rig.events() == []
    rig.engine.evenable_disk_eject(domid, "xvda", 1)
    assert users(rig.events()) == [1]


def ejects_and_deaths_come_in_the_order_in_which_they_happened(rig: Rig) -> None:
    first, second = rig.domain_with_disk(), rig.domain_with_disk()
    for user, domid in enumerate((first, second), 1):
        rig.engine.evenable_disk_eject(domid, "xvda", user)
        rig.engine.evenable_domain_death(domid, user + 10)
    rig.host.eject_disk(second, "xvda")
    rig.settle()
    rig.host.destroy_domain(second)
    rig.settle()
    rig.host.eject_disk(first, "xvda")
    rig.settle()
    rig.host.shutdown_domain(first)
    assert users(rig.events()) == [2, 12, 1, 11]


def malformed_arguments_and_foreign_handles_are_refused(rig: Rig) -> None:
    malformed: list[tuple[type[Exception], tuple[Any, ...]]] = [
        (ValueError, (1, "")),
        (ValueError, (1, "xvd")),
        (ValueError, (1, "xvda-1")),
        (ValueError, (1, "floppy")),
        (ValueError, (1, "xvda\0")),
        (TypeError, (1, None)),
        (TypeError, (1, 51712)),
        (ValueError, (-1, "xvda")),
        (ValueError, (1, "xvda", 2**64)),
    ]
    for error, arguments in malformed:
        with pytest.raises(error):
            rig.engine.evenable_disk_eject(*arguments)
    evgen = rig.engine.evenable_disk_eject(1, "xvda")
    with pytest.raises(MisuseError):
        rig.another().engine.evdisable_disk_eject(evgen)
    rig.engine.evdisable_disk_eject(evgen)
