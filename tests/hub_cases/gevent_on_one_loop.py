# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the gevent hub must do on whatever loop this process runs. test_hub_gevent.py runs it on each of them."""

from __future__ import annotations

import gevent.os

from gxl.hubhooks.gevent import GeventHub
from gxl.testing.hubs import HubProviderTests


class TestGeventHub(HubProviderTests):
    def make_hub(self) -> GeventHub:
        return GeventHub()

    def fork(self) -> int:
        return gevent.os.fork_gevent()
