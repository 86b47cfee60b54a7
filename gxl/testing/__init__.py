# SPDX-License-Identifier: LGPL-2.1-or-later
"""For those who write an engine or a hub provider: the suites that each must pass. Needs pytest."""
