# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where libxl does not do what its header says, or does what the header leaves open: the one table of it.

The conformance suite takes from here what to expect of an engine that follows the header and of the real library, as
seen through gxl's LibxlEngine; the documentation prints it. Both columns are tested: a library that starts to follow
its header is noticed, and the row goes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

_Value = TypeVar("_Value")

Side = Literal["header", "library"]


@dataclass(frozen=True, slots=True)
class Difference(Generic[_Value]):
    """One row: what the header says, what the library does, and what a case sees on either side."""

    subject: str
    header: str
    library: str
    on_header: _Value
    on_library: _Value

    def on(self, side: Side) -> _Value:
        """What a case sees on this side."""
        return self.on_header if side == "header" else self.on_library


EJECTS_OF_ONE_DISK = Difference(
    "Several eject evgens on one disk",
    'Each gets every eject: "The caller may enable identical events more than once. If they do so, each actual '
    'occurrence will generate several events".',
    "The evgen that looks first takes the request away; the others see nothing. (A Context fans out by itself.)",
    on_header=[1, 2],
    on_library=[1],
)
EJECT_VDEV = Difference(
    "The vdev of a DiskEject",
    "The name that the evgen was enabled with, or a copy of it.",
    "NULL; LibxlEngine puts there what the guest's frontend directory calls the disk, and only where that is missing "
    "the name that the evgen was enabled with. (A Context gives back the caller's name.)",
    on_header="51712",
    on_library="xvda",
)
EVENABLE_WAKES_POLL = Difference(
    "An evgen that is enabled while the application polls what osevent_beforepoll gave it",
    "The poll returns, so that the new fd is polled: nothing else could let a single slow poll notice.",
    "The poll sleeps on: only functions that can complete an operation wake it.",
    on_header=True,
    on_library=False,
)
FAILED_EJECT_WATCH = Difference(
    "evenable_disk_eject when xenstored refuses the watch",
    "An error, and nothing has changed.",
    "A crash: the half-made evgen is taken apart as if its watch existed. xenstored refuses dom0 no watch in practice; "
    "where it is dead, LibxlEngine notices before.",
    on_header="fails",
    on_library="crashes",
)
TIMEOUT_MODIFY_ON_ABORT = Difference(
    "How often timeout_modify comes when an operation is aborted",
    "Once: libxl wants the timeout to occur as soon as possible.",
    "Twice for the same registration. It must still occur exactly once.",
    on_header=1,
    on_library=2,
)
FAILED_TIMEOUT_REGISTER = Difference(
    "A failing timeout_register in domain_shutdown",
    "The operation does not start, and the hook's code is returned.",
    "A crash. LibxlEngine tells libxl that all is well, and reports a disaster; the timeout occurs at once, and ends "
    "the operation.",
    on_header="raises",
    on_library="disaster",
)
FAILED_FD_REGISTER = Difference(
    "A failing fd_register in domain_shutdown",
    "The operation does not start, and the hook's code is returned.",
    "A crash. LibxlEngine tells libxl that all is well, and reports a disaster that ends the engine.",
    on_header="raises",
    on_library="dead",
)
DEAD_XENSTORED = Difference(
    "The death of xenstored, or of the connection to it",
    "A disaster: the system is badly broken, and events of all types may be missing.",
    "Silence. (A Context notices by its own connection.)",
    on_header="disaster",
    on_library="silence",
)
STOLEN_CHILD = Difference(
    "A child of libxl's that somebody else reaps while libxl owns SIGCHLD and reaps everything",
    "Unforeseen. The operation fails, and a disaster is reported, as libxl does in the other modes.",
    "The operation never ends.",
    on_header="fails",
    on_library="hangs",
)

DIFFERENCES: tuple[Difference[object], ...] = tuple(
    entry for entry in list(globals().values()) if isinstance(entry, Difference)
)
"""The whole table, in the order above."""
