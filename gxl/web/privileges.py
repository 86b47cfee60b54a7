# SPDX-License-Identifier: LGPL-2.1-or-later
"""Giving up root, once what needs it is open.

Opening the hypervisor's devices and xenstored's socket takes root; using what is open does not: neither checks again
who asks. What libxl itself opens or starts later, it opens and starts as the new user: so shutting a guest down goes on
working (a word in xenstore), and destroying a domain does not (its device model is root's process, its hotplug scripts
and the files below /var/lib/xen are root's), nor changing a CD, nor opening Xen anew when xenstored was restarted.
"""

from __future__ import annotations

import os
import pwd
import re
from pathlib import Path

WORKING = ("shutdown",)
"""The actions of gxl.web that still work afterwards."""


def become(user: str) -> None:
    """Run on as `user`, without other groups and capabilities, and with no way back.

    Raises PermissionError if this process is not root, LookupError if there is no such user, ValueError if it is root
    under another name, and RuntimeError if privileges are left afterwards: then end the process.
    """
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        raise LookupError(f"there is no user {user!r}") from None
    if entry.pw_uid == 0 or entry.pw_gid == 0:
        raise ValueError(f"{user!r} has uid {entry.pw_uid} and gid {entry.pw_gid}: that gives nothing up")
    if os.geteuid() != 0:
        raise PermissionError(f"only root can become {user!r}, and this process has uid {os.geteuid()}")
    os.setgroups([])
    os.setresgid(entry.pw_gid, entry.pw_gid, entry.pw_gid)
    os.setresuid(entry.pw_uid, entry.pw_uid, entry.pw_uid)
    left = _left(entry.pw_uid, entry.pw_gid)
    if left:
        raise RuntimeError(f"this process is {user!r} now, but still has {', '.join(left)}")


def _left(uid: int, gid: int) -> list[str]:
    """What of the former privileges is still there, whatever the calls above returned."""
    left = []
    if os.getresuid() != (uid, uid, uid) or os.getresgid() != (gid, gid, gid) or os.getgroups():
        left.append(f"the uids {os.getresuid()}, the gids {os.getresgid()} and the groups {os.getgroups()}")
    # A process can have been told (securebits) to keep its capabilities when it changes its uid.
    capabilities = re.findall(r"^(Cap(?:Inh|Prm|Eff|Amb)):\s*0*([1-9a-f][0-9a-f]*)", _status(), re.MULTILINE)
    left += [f"{name} {value}" for name, value in capabilities]
    try:
        os.setuid(0)
    except PermissionError:
        pass
    else:
        left.append("a way back to root")
    return left


def _status() -> str:
    return Path("/proc/self/status").read_text()
