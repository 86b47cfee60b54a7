# SPDX-License-Identifier: LGPL-2.1-or-later
"""The poll hub: the conformance suite, and threads that share a Context."""

from __future__ import annotations

from gxl.hubhooks.poll import PollHub
from gxl.testing.hubs import HubProviderTests


class TestPollHub(HubProviderTests):
    def make_hub(self) -> PollHub:
        return PollHub()
