# SPDX-License-Identifier: LGPL-2.1-or-later
"""Hub providers with one fault each, made from the asyncio hub, and the cases that have to find it."""

from broken_hubs import children, fds, life, timeouts, waiting
from broken_hubs.faults import FAULTS

__all__ = ["FAULTS", "children", "fds", "life", "timeouts", "waiting"]
