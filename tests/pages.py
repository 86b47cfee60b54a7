# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the documents show, and how it is run: a page is one session, block after block, in an empty directory.

* A block of Python that imports gxl begins a program, and one that doesn't goes on with it. One that begins with a
  comment that names a file, `# app.py`, is written to that file instead, for what follows to import or to run.
* Of a block of console, each line that begins with `$ ` is a command; what follows is what it prints, in which `…`
  stands for anything.
* What can't be run says so to the reader: a `{code-block}` whose caption begins with NOT_RUN, and gives the reason.

Programs run on the stage (stage.py); commands see a simulated host with the same domains, through the real libxenlight.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urljoin

from markdown_it import MarkdownIt

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "examples" / "gxl-trio" / "README.md"]
STAGE = Path(__file__).with_name("stage.py")
NOT_RUN = "Not run by the tests: "
PROGRAMS = {"python", "console"}
# What is shown, and is nothing that could be run. `{…}`: a directive of Sphinx's, which the build checks.
SHOWN = {"ini", "json", "jsonl", "text", "toml", "yaml", "html", "systemd", "nginx"}


# What runs these tests, and what ./test does itself.
THIS_RUN = {"./test", "LD_PRELOAD=$(python -c 'from gxl.simhost import preload; print(preload.library())') pytest"}
# What ends by Ctrl-C only, unless something else is said.
LASTING = re.compile(r"gxl (watch|serve)\b(?!.*--(?:count|timeout))")
PATIENCE = 600
"""Seconds after which what is still running is stuck. Three minutes were seen to pass before pip had downloaded all."""


@dataclass(frozen=True)
class Block:
    """A block of code on a page."""

    page: Path
    line: int
    language: str
    text: str
    not_run: str = ""
    """Why it is not run."""

    @property
    def file(self) -> str:
        """The file that it is the content of."""
        named = re.match(r"# ([\w./-]+\.py)\n", self.text) if self.language == "python" else None
        return named[1] if named else ""

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks(page: Path) -> Iterator[Block]:
    """Every block of code of a page, in order; directives that are none are left out."""
    for token in MarkdownIt("commonmark").parse(page.read_text()):
        if token.map is None or token.type not in ("fence", "code_block"):
            continue
        language, text, why = token.info.strip(), token.content, ""
        if directive := re.fullmatch(r"\{code-block\} (\w+)", language):
            language = directive[1]
            options, _, text = text.partition("\n\n")
            caption = re.search(rf'^:caption: "{NOT_RUN}(.+)"$', options, re.MULTILINE)
            why = caption[1] if caption else ""
        if not language.startswith("{"):
            yield Block(page, token.map[0] + 1, language, text, why)


def run_page(page: Path, directory: Path, environment: Callable[[], dict[str, str]]) -> None:
    """Run all that a page shows. `environment` gives the variables that make commands see a simulated host."""
    program: list[Block] = []
    for block in blocks(page):
        if block.not_run or block.language not in PROGRAMS:
            continue
        if program and (block.language != "python" or block.file or "import gxl" in block.text):
            _run_python(program, directory)
            program = []
        if block.language == "console":
            _run_console(block, directory, environment())
        elif block.file:
            (directory / block.file).write_text(block.text)
        else:
            program.append(block)
    if program:
        _run_python(program, directory)


def _run_python(program: list[Block], directory: Path) -> None:
    text = ""
    for block in program:
        # A traceback then names the line of the page.
        text += "\n" * (block.line - text.count("\n")) + block.text
    path = directory / f"{block.page.stem}.program"
    path.write_text(text)
    variables = {**os.environ, "PYTHONPATH": str(directory)}
    _run([sys.executable, str(STAGE), str(path)], directory, variables, str(program[0]))


def _run_console(block: Block, directory: Path, environment: dict[str, str]) -> None:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    for shown in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
        command, _, expected = shown.partition("\n")
        if command in THIS_RUN:
            continue
        told = _run(
            ["bash", "-c", command], directory, {**os.environ, **environment, "PATH": path}, f"{block}: {command}"
        )
        pattern = ".*?".join(re.escape(part) for part in expected.split("…"))
        assert not expected.strip() or re.fullmatch(pattern, told, re.DOTALL), (
            f"{block}: {command}\nshows\n{expected}\nand prints\n{told}"
        )


def _run(command: list[str], directory: Path, environment: dict[str, str], what: str) -> str:
    """What the command prints. One that lasts gets Ctrl-C; one that serves pages, after its first was seen to live."""
    process = subprocess.Popen(
        command,
        cwd=directory,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    told = ""
    watchdog = threading.Timer(PATIENCE, os.killpg, (process.pid, signal.SIGKILL))
    watchdog.start()
    lasts = LASTING.search(command[-1])
    try:
        for line in process.stdout:
            told += line
            address = re.search(r"http://127\.0\.0\.1:\d+/\S*", line)
            if lasts and (address or lasts[1] == "watch"):
                if address:
                    _visit(address[0], "--sim" in command[-1])
                os.killpg(process.pid, signal.SIGINT)
                lasts = None
        status = process.wait()
    finally:
        watchdog.cancel()
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        process.stdout.close()
    assert status in (0, 128 + signal.SIGINT), f"{what} ends with {status}\n{told}"
    return told


def _visit(address: str, lively: bool) -> None:
    """Get the page, and follow its events as it does, on a host where something happens until a domain has died."""
    with urllib.request.urlopen(address, timeout=PATIENCE) as page:
        assert b"<html" in page.read(), f"{address} is no page"
    with urllib.request.urlopen(urljoin(address, "api/stream"), timeout=PATIENCE) as stream:
        awaited = "domain_death" if lively else "hello"
        kind = ""
        for line in stream:
            field, _, value = line.decode().strip().partition(": ")
            if field == "event":
                kind = value
            elif field == "data" and awaited in (kind, kind == "event" and json.loads(value)["type"]):
                return
    raise AssertionError(f"{address}: the stream ends before {awaited}")
