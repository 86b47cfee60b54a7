# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a well-formed argument is. Both levels ask here, before anything is changed.

Well-formed is not the same as present: a domain or a disk that does not exist is accepted, as libxl accepts it.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any
from uuid import UUID

from gxl.events import EVENTMASK_ALL, DiskFormat, EventType

DOMID_LIMIT = 2**32
USER_LIMIT = 2**64

_UNKNOWN_BITS = EVENTMASK_ALL & ~sum(1 << kind for kind in EventType)


def _integer(value: object, what: str) -> int:
    # bool is an int to Python; a domid of True is a bug in the caller.
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{what} must be an int, not {value!r}")
    return value


def check_domid(domid: object) -> int:
    """`domid` as libxl takes it: an unsigned 32-bit integer."""
    number = _integer(domid, "domid")
    if not 0 <= number < DOMID_LIMIT:
        raise ValueError(f"domid must be from 0 to {DOMID_LIMIT - 1}, not {number}")
    return number


def check_domain(domain: object) -> int | str | UUID:
    """What means a domain: its domid, its name, or its UUID."""
    if isinstance(domain, bool) or not isinstance(domain, (int, str, UUID)):
        raise TypeError(f"a domain is given by its domid (an int), its name or its UUID, not by {domain!r}")
    if isinstance(domain, int):
        return check_domid(domain)
    if domain == "":
        raise ValueError("a domain's name can't be empty")
    return domain


def check_user(user: object, what: str = "user") -> int:
    """A user value: the header guarantees at least 64 unsigned bits, and libxl carries exactly those."""
    number = _integer(user, what)
    if not 0 <= number < USER_LIMIT:
        raise ValueError(f"{what} must be from 0 to 2**64 - 1, not {number}")
    return number


def check_typemask(typemask: object) -> int:
    """An event mask: bits of EventType and no others, or EVENTMASK_ALL, or that without some types."""
    number = _integer(typemask, "typemask")
    if not 0 <= number <= EVENTMASK_ALL:
        raise ValueError(f"typemask must be from 0 to 2**64 - 1, not {number}")
    unknown = number & _UNKNOWN_BITS
    if unknown and unknown != _UNKNOWN_BITS:
        raise ValueError(
            f"typemask {number:#x} has bits that are no EventType: {unknown:#x}; combine types with gxl.mask(…), "
            "or begin with EVENTMASK_ALL"
        )
    return number


def check_filters(
    typemask: int, predicate: object, domid: int | str | UUID | None, user: int | None
) -> tuple[int, int | str | UUID | None, int | None]:
    """What event_check and event_wait choose events by."""
    if (
        predicate is None
        and user is None
        and typemask == EVENTMASK_ALL
        and (domid is None or (type(domid) is int and 0 <= domid < DOMID_LIMIT))
    ):
        # What most ask for, at each event.
        return EVENTMASK_ALL, domid, None
    check_callable(predicate, "predicate")
    return (
        check_typemask(typemask),
        None if domid is None else check_domain(domid),
        None if user is None else check_user(user),
    )


def check_callable(function: object, what: str) -> None:
    """A callback that may be left out."""
    if function is not None and not callable(function):
        raise TypeError(f"{what} must be callable or None, not {function!r}")


def check_timeout(timeout: object) -> float | None:
    """Seconds to wait: None for ever, 0 for not at all."""
    if timeout is None:
        return None
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
        raise TypeError(f"timeout must be seconds or None, not {timeout!r}")
    if not timeout >= 0:  # NaN is not, either
        raise ValueError(f"timeout must be 0 or more seconds, or None, not {timeout!r}")
    try:
        seconds = float(timeout)
    except OverflowError:
        return None
    return None if seconds == math.inf else seconds


def check_config(config: object) -> dict[str, Any]:
    """A domain's configuration: libxl's JSON, as text or as the dict that it stands for. Returns the dict."""
    if isinstance(config, str):
        try:
            config = json.loads(config)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"config is not JSON: {error}") from None
        if not isinstance(config, dict):
            raise ValueError(f"config must be a JSON object such as `xl create --dryrun` prints, not {config!r}")
    if not isinstance(config, dict):
        raise TypeError(f"config must be libxl's JSON, as a dict or as text, not {config!r}")
    if not isinstance(config.get("c_info"), dict) or not isinstance(config.get("b_info"), dict):
        raise ValueError(
            f"config must have the objects c_info and b_info, and has {', '.join(map(str, config)) or 'nothing'}"
        )
    try:
        json.dumps(config, allow_nan=False)
    except TypeError as error:
        raise TypeError(f"config must hold nothing but what JSON has: {error}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"config must hold nothing but what JSON has: {error}") from None
    try:
        UUID(str(config["c_info"].get("uuid", UUID(int=0))))
    except ValueError:
        raise ValueError(f"c_info.uuid must be a UUID, not {config['c_info']['uuid']!r}") from None
    return config


def check_image(path: object, format: object) -> None:
    """What is put into a CD drive: an absolute path, or None for nothing, and libxl's name for its format."""
    if path is not None and not isinstance(path, str):
        raise TypeError(
            f"path must be the name of an image file, or None for none, not {path!r}; what an eject says of its disk "
            "comes from the guest, and goes into no drive"
        )
    if path is not None and (not path.startswith("/") or "\0" in path):
        raise ValueError(f"path must be absolute, not {path!r}")
    if not isinstance(format, str):
        raise TypeError(f"format must be a str such as 'raw', not {format!r}")
    known = [entry.name.lower() for entry in DiskFormat if entry not in (DiskFormat.UNKNOWN, DiskFormat.EMPTY)]
    if format not in known:
        raise ValueError(f"format must be one of {', '.join(known)}, not {format!r}")


def check_fd(fd: object) -> int:
    """A file descriptor's number; whether it is open is the kernel's to say."""
    number = _integer(fd, "fd")
    if not 0 <= number < 2**31:
        raise ValueError(f"fd must be from 0 to 2**31 - 1, not {number}")
    return number


# The grammar of libxl__device_disk_dev_number without its accidents: its strtoul and sscanf take signs, blanks and
# octal as well, so that "xvda-1", "xvd" and "" name devices there that no disk can have.
_XVD = re.compile(r"xvd([a-z]{1,5})([1-9][0-9]{0,2})?")
_D_P = re.compile(r"d(0|[1-9][0-9]{0,6})p(0|[1-9][0-9]{0,2})")
_HD_SD = re.compile(r"([hs])d([a-z])([1-9][0-9]?)?")
_NUMBER = re.compile(r"0|[1-9][0-9]{0,9}|0[xX][0-9a-fA-F]{1,8}")


def check_vdev(vdev: object) -> str:
    """A virtual disk's name (`xvda`, `hdc`, `sda1`, `d0p1`, or a plain device number)."""
    devid(vdev)
    assert isinstance(vdev, str)
    return vdev


def devid(vdev: object) -> int:
    """The device number that `vdev` stands for: what the disk's directory in xenstore is called.

    libxl takes a name that it can't read as device -1 and never reports an event for it; here it is a ValueError.
    """
    if not isinstance(vdev, str):
        raise TypeError(f"vdev must be a disk's name such as 'xvda', not {vdev!r}")
    number = _devid(vdev)
    if number is None:
        raise ValueError(f"vdev must be a disk's name such as 'xvda', 'hdc', 'sda1', 'd0p1' or '51712', not {vdev!r}")
    return number


def _devid(vdev: str) -> int | None:
    if _NUMBER.fullmatch(vdev):
        number = int(vdev, 0)
        return number if number < 2**31 else None
    if match := _XVD.fullmatch(vdev) or _D_P.fullmatch(vdev):
        name, part = match.groups()
        disk = int(name) if name.isdigit() else _letters(name)
        partition = int(part or 0)
        if disk <= 15 and partition <= 15:
            return 202 << 8 | disk << 4 | partition
        return 1 << 28 | disk << 8 | partition if disk < 1 << 20 and partition < 256 else None
    if match := _HD_SD.fullmatch(vdev):
        bus, letter, part = match.groups()
        disk, partition = ord(letter) - ord("a"), int(part or 0)
        if bus == "h" and disk <= 3 and partition <= 63:
            return (3 if disk < 2 else 22) << 8 | (disk & 1) << 6 | partition
        if bus == "s" and disk <= 15 and partition <= 15:
            return 8 << 8 | disk << 4 | partition
    return None


def _letters(letters: str) -> int:
    """`a` is 0, `z` 25, `aa` 26: the way Linux counts its disks."""
    number = 0
    for letter in letters:
        number = number * 26 + ord(letter) - ord("a") + 1
    return number - 1
