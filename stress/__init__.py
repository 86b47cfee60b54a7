# SPDX-License-Identifier: LGPL-2.1-or-later
"""Load: storms, floods and fairness at sizes that tests of behaviour don't have. `python -m stress --help`.

Each scenario takes a Place, a size and a seed, raises AssertionError where a promise is broken, and returns figures.
"""
