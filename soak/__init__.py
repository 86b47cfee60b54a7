# SPDX-License-Identifier: LGPL-2.1-or-later
"""Everything at once, for as long as asked, with random seeds: ``python -m soak``."""
