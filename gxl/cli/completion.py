# SPDX-License-Identifier: LGPL-2.1-or-later
"""`gxl completion`: what a shell has to read so that it completes gxl's commands and options."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from gxl.cli.output import Output

_SHELLS = ("bash", "zsh", "fish")


@click.command(short_help="Print what a shell completes gxl by.")
@click.argument("shell", type=click.Choice(_SHELLS))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print a script that lets SHELL complete gxl's commands and options.

    \b
      bash  eval "$(gxl completion bash)"          in ~/.bashrc
      zsh   eval "$(gxl completion zsh)"           in ~/.zshrc
      fish  gxl completion fish > ~/.config/fish/completions/gxl.fish
    """
    found = get_completion_class(shell)
    assert found is not None
    Output().line(found(ctx.find_root().command, {}, "gxl", "_GXL_COMPLETE").source().rstrip())
