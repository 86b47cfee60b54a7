# SPDX-License-Identifier: LGPL-2.1-or-later
"""Draws a run's ratios to C.

An SVG is text, and this one is bars and words: that needs no library. The embedded engine has no place here, since
it does not use libxl.
"""

from __future__ import annotations

import math
from xml.sax.saxutils import escape

from benchmarks.goals import Results, ratio

COLOURS = {
    "bare": "#9a9a9a",
    "gxl": "#2f6f9f",
    "threadpool": "#c9733a",
    "thread": "#8a8f3c",
    "gxl-asyncio": "#7aa6c2",
    "gxl-poll": "#a9c4d6",
}
SHOWN = [
    *("eject ping-pong", "burst of 200 ejects", "a death among 10", "a death among 1000", "a death among 10000"),
    *("storm of 10", "storm of 1000", "storm of 10000"),
]
_LEFT, _WIDTH, _BAR, _GAP, _TOP = 180, 560, 13, 12, 60


def draw(results: Results) -> str:
    """Horizontal bars, on a logarithmic scale that begins at C's 1."""
    bars = {
        workload: {name: found for name in COLOURS if (found := ratio(results, workload, name, "C")) is not None}
        for workload in SHOWN
    }
    highest = max((value for found in bars.values() for value in found.values()), default=10.0)
    decades = max(1, math.ceil(math.log10(highest)))

    def x(value: float) -> float:
        return _LEFT + _WIDTH * max(0.0, math.log10(value)) / decades

    drawn: list[str] = []
    y = _TOP
    for workload, ratios in bars.items():
        if not ratios:
            continue
        middle = y + _BAR * len(ratios) / 2 + 4
        drawn.append(f'<text x="{_LEFT - 8}" y="{middle:.0f}" text-anchor="end">{escape(workload)}</text>')
        for name, value in ratios.items():
            width = max(1.0, x(value) - _LEFT)
            drawn.append(f'<rect x="{_LEFT}" y="{y}" width="{width:.1f}" height="{_BAR - 2}" fill="{COLOURS[name]}"/>')
            drawn.append(f'<text x="{_LEFT + width + 4:.1f}" y="{y + 10}" class="n">{value:.2f}</text>')
            y += _BAR
        y += _GAP
    legend = "".join(
        f'<rect x="{_LEFT + 112 * place}" y="12" width="11" height="11" fill="{colour}"/>'
        f'<text x="{_LEFT + 112 * place + 16}" y="22">{name}</text>'
        for place, (name, colour) in enumerate(COLOURS.items())
    )
    lines = "".join(
        f'<line x1="{x(10**power):.0f}" y1="{_TOP - 10}" x2="{x(10**power):.0f}" y2="{y}" stroke="#bbb"/>'
        f'<text x="{x(10**power):.0f}" y="{_TOP - 14}" text-anchor="middle" class="n">{10**power}</text>'
        for power in range(decades + 1)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_LEFT + _WIDTH + 60} {y}" role="img" '
        'aria-label="Time for an event, as a multiple of what the C program needs">'
        "<style>text{font:12px sans-serif;fill:#222}.n{font-size:10px}</style>"
        f'<rect width="100%" height="100%" fill="#fff"/>{legend}{lines}{"".join(drawn)}</svg>\n'
    )
