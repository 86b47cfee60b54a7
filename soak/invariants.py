# SPDX-License-Identifier: LGPL-2.1-or-later
"""What must hold in a round under any hub."""

from __future__ import annotations

import os
import sys

import gxl
from gxl import GxlError


class Broken(AssertionError):
    """An invariant did not hold."""


def fork(ctx: gxl.Context) -> None:
    """A child that uses nothing of the parent's but finds it closed to it."""
    sys.stdout.flush()
    pid = os.fork()
    if not pid:
        status = 1
        try:
            ctx.event_check()
        except GxlError:
            status = 0
        finally:
            os._exit(status)
    if os.waitpid(pid, 0)[1]:
        raise Broken("a forked child could use its parent's Context")
