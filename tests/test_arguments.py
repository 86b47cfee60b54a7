# SPDX-License-Identifier: LGPL-2.1-or-later
import math
import re
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gxl.arguments import (
    check_domid,
    check_fd,
    check_timeout,
    check_typemask,
    check_user,
    check_vdev,
    devid,
)
from gxl.events import EVENTMASK_ALL, DomainDeath, EventType, mask
from gxl.interfaces import AsyncHow

NO_INTEGERS = [None, True, "7", b"7", 7.0, math.nan, [7]]


@pytest.mark.parametrize("check", [check_domid, check_user, check_typemask, check_fd])
@pytest.mark.parametrize("value", NO_INTEGERS)
def test_what_must_be_an_int_is_no_bool_and_no_number_in_disguise(
    check: Callable[[object], int], value: object
) -> None:
    with pytest.raises(TypeError, match=re.escape(repr(value))):
        check(value)


@pytest.mark.parametrize(
    ("check", "largest"),
    [(check_domid, 2**32 - 1), (check_user, 2**64 - 1), (check_fd, 2**31 - 1), (check_typemask, 2**64 - 1)],
)
def test_an_int_is_taken_as_far_as_its_c_type_goes(check: Callable[[object], int], largest: int) -> None:
    for value in (0, largest):
        assert check(value) == value
    for value in (-1, largest + 1):
        with pytest.raises(ValueError, match=str(value)):
            check(value)


def test_a_user_values_error_says_which_value() -> None:
    with pytest.raises(ValueError, match="for_event must be"):
        check_user(-1, "for_event")


@given(st.sets(st.sampled_from(EventType)))
def test_a_typemask_of_known_types_is_taken(types: set[EventType]) -> None:
    assert check_typemask(mask(*types)) == mask(*types)


@given(st.sets(st.sampled_from(EventType)))
def test_everything_without_some_types_is_taken(types: set[EventType]) -> None:
    assert check_typemask(EVENTMASK_ALL & ~mask(*types)) == EVENTMASK_ALL & ~mask(*types)


@given(st.integers(0, 2**64 - 1))
@example(1)
@example(1 << 6)
@example(EVENTMASK_ALL & ~(1 << 6))
@example(mask(DomainDeath) | 1 << 61)
def test_a_bit_that_is_no_event_type_is_refused(typemask: int) -> None:
    unknown = [bit for bit in range(64) if typemask >> bit & 1 and bit not in set(EventType)]
    if 0 < len(unknown) < 64 - len(EventType):
        with pytest.raises(ValueError, match=re.escape(f"{typemask:#x}")):
            check_typemask(typemask)
    else:
        assert check_typemask(typemask) == typemask


@pytest.mark.parametrize(
    ("timeout", "seconds"),
    [(None, None), (0, 0.0), (0.25, 0.25), (3, 3.0), (math.inf, None), (10**400, None)],
)
def test_a_timeout_is_seconds_or_none(timeout: object, seconds: float | None) -> None:
    assert check_timeout(timeout) == seconds


@pytest.mark.parametrize("timeout", [-1, -0.001, -math.inf, math.nan, -(10**400)])
def test_a_timeout_that_no_clock_can_measure_is_refused(timeout: float) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(timeout))):
        check_timeout(timeout)


@pytest.mark.parametrize("timeout", [True, "3", [3], 1j])
def test_a_timeout_that_is_no_number_is_refused(timeout: object) -> None:
    with pytest.raises(TypeError, match=re.escape(repr(timeout))):
        check_timeout(timeout)


# What libxl's libxl__device_disk_dev_number makes of them; Linux has xvd at major 202, IDE at 3 and 22, SCSI at 8.
DEVICES = {
    "xvda": 51712,
    "xvda1": 51713,
    "xvda15": 51727,
    "xvda16": 1 << 28 | 16,
    "xvdb": 51728,
    "xvdp15": 51712 + 15 * 16 + 15,
    "xvdq": 1 << 28 | 16 << 8,
    "xvdz255": 1 << 28 | 25 << 8 | 255,
    "xvdaa": 1 << 28 | 26 << 8,
    "xvdbgqcv": 1 << 28 | 0xFFFFF << 8,
    "d0p0": 51712,
    "d0p16": 1 << 28 | 16,
    "d1p2": 51730,
    "d16p0": 1 << 28 | 16 << 8,
    "d1048575p255": 1 << 28 | 0xFFFFF << 8 | 255,
    "hda": 3 << 8,
    "hda1": 3 << 8 | 1,
    "hdb": 3 << 8 | 64,
    "hdc": 22 << 8,
    "hdd63": 22 << 8 | 64 | 63,
    "sda": 8 << 8,
    "sda1": 8 << 8 | 1,
    "sdp15": 8 << 8 | 15 << 4 | 15,
    "0": 0,
    "51712": 51712,
    "0xca00": 51712,
    "0XCA00": 51712,
    "2147483647": 2**31 - 1,
}


@pytest.mark.parametrize(("vdev", "number"), DEVICES.items())
def test_a_disks_name_stands_for_the_number_that_libxl_gives_it(vdev: str, number: int) -> None:
    assert devid(vdev) == number
    assert check_vdev(vdev) == vdev


@given(st.integers(0, 2**20 - 1), st.integers(0, 255))
def test_both_spellings_of_a_disk_and_partition_are_one_device(disk: int, partition: int) -> None:
    letters, rest = "", disk
    while rest >= 0:
        rest, digit = divmod(rest, 26)
        letters = chr(ord("a") + digit) + letters
        rest -= 1
    assert devid(f"xvd{letters}{partition or ''}") == devid(f"d{disk}p{partition}")


@pytest.mark.parametrize(
    "vdev",
    [
        *("", " ", "disk", "xvd", "xvd1", "xvda0", "xvda01", "xvda256", "xvda1a", "xvdA", "XVDA", "xvda ", " xvda"),
        *("xvda\n", "xvda1\n", "xvda-1", "xvda+1", "xvda\0", "xvdzzzzzz", "xvdbgqcw", "xvda1١", "xvda/../vda"),
        *("d0", "p0", "d0p", "d-1p0", "d1048576p0", "d0p256", "d01p0", "d0p00", "d0p0x", "d1١p0"),
        *("hd", "hde", "hda64", "hda0", "hdaa", "sd", "sdq", "sda16", "sda01", "sda1١", "sdaa", "vda"),
        *("-1", "+1", "010", "00", "0x", "0xg", "2147483648", "0x80000000", "99999999999", "5١712", "1 "),
    ],
)
def test_a_name_that_is_no_disks_is_refused(vdev: str) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(vdev))):
        check_vdev(vdev)


@pytest.mark.parametrize("vdev", [None, 51712, b"xvda", True])
def test_a_disks_name_is_text(vdev: object) -> None:
    with pytest.raises(TypeError, match=re.escape(repr(vdev))):
        check_vdev(vdev)


@given(st.text())
def test_any_text_is_a_disk_or_a_value_error(vdev: str) -> None:
    try:
        number = devid(vdev)
    except ValueError:
        return
    assert 0 <= number < 2**31


def test_an_operation_reports_in_one_way() -> None:
    def callback(rc: int) -> None:
        pass

    assert AsyncHow().for_event == 0
    assert AsyncHow(2**64 - 1).for_event == 2**64 - 1
    assert AsyncHow(callback=callback).callback is callback
    with pytest.raises(ValueError, match="both"):
        AsyncHow(for_event=7, callback=callback)
    with pytest.raises(ValueError, match="for_event"):
        AsyncHow(for_event=-1)
    with pytest.raises(TypeError, match="for_event"):
        AsyncHow(for_event=True)
    with pytest.raises(TypeError, match="'f'"):
        AsyncHow(callback="f")  # type: ignore[arg-type]  # that it is refused is what is tested
