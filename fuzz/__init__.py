# SPDX-License-Identifier: LGPL-2.1-or-later
"""Coverage-guided fuzzing of everything that guests and clients can send: ``python -m fuzz``."""
