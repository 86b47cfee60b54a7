# SPDX-License-Identifier: LGPL-2.1-or-later
"""The command `gxl`. Each of its commands is a file here; a new one is a file more, and a line in the list below.

Exit statuses: 0, done; 1, it can't be done, and standard error says why; 2, the command line is wrong; 124, the time
given by --timeout is over; 130 and 143, ended by SIGINT or SIGTERM.
"""

from __future__ import annotations

import click

from gxl.cli.doctor import doctor
from gxl.cli.sim import sim
from gxl.cli.simctl import simctl
from gxl.cli.version import own_version
from gxl.cli.watch import watch


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(own_version(), prog_name="gxl")
def main() -> None:
    """Domain events of the Xen host that this runs on."""


main.add_command(watch)
main.add_command(doctor)
main.add_command(sim)
main.add_command(simctl)
