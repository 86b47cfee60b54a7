# SPDX-License-Identifier: LGPL-2.1-or-later
"""The conformance suite, on the gevent hub."""

from __future__ import annotations

import gevent
import gevent.os

from gxl.hubhooks.gevent import GeventHub
from gxl.testing.hubs import HubProviderTests


class TestGeventHub(HubProviderTests):
    def make_hub(self) -> GeventHub:
        return GeventHub()

    def fork(self) -> int:
        return gevent.os.fork_gevent()
