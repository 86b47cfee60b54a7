# SPDX-License-Identifier: LGPL-2.1-or-later
"""`python -m gxl` is the command `gxl`."""

from gxl.cli import main

if __name__ == "__main__":
    main(prog_name="gxl")
