# SPDX-License-Identifier: LGPL-2.1-or-later
"""For those who write an engine or a hub provider: the suites that each must pass. Needs pytest."""

from gxl.testing.engines import EngineFailed, EngineTests, check_engine
from gxl.testing.hubs import HubProviderFailed, HubProviderReport, HubProviderTests, check_hub_provider

__all__ = [
    "EngineFailed",
    "EngineTests",
    "HubProviderFailed",
    "HubProviderReport",
    "HubProviderTests",
    "check_engine",
    "check_hub_provider",
]
