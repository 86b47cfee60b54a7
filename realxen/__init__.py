# SPDX-License-Identifier: LGPL-2.1-or-later
"""Boot a real Xen with a real dom0 under QEMU's emulation, and run tests inside dom0: ``python -m realxen``."""
