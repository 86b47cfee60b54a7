# SPDX-License-Identifier: LGPL-2.1-or-later
"""Everything that the documents show is run, or says to its reader why not."""

from __future__ import annotations

from pathlib import Path

import checkout
import pages
import pytest
from requirements import Requirements

from gxl.simhost.remote import RemoteHost

# Pages of fragments, and the tests that run them, or compare them with programs that are run.
ELSEWHERE = {
    "command-line.md": "test_cli_docs.py",
    "write-a-hook-provider.md": "test_hub_docs.py",
    "watching.md": "test_watching_docs.py",
    "json.md": "test_watching_docs.py",
}
# How many blocks of each page are not run. Each has a caption that gives the reason.
NOT_RUN = {"fuzzing.md": 1, "performance.md": 1, "soak.md": 1, "tutorial.md": 1}

SHOWN = {page.name: list(pages.blocks(page)) for page in pages.PAGES}


@pytest.mark.parametrize(
    "page", [page for page in pages.PAGES if page.name not in ELSEWHERE], ids=lambda page: page.name
)
def test_what_a_page_shows_works(
    page: Path, tmp_path: Path, request: pytest.FixtureRequest, require: Requirements
) -> None:
    def environment() -> dict[str, str]:
        served: tuple[RemoteHost, dict[str, str]] = request.getfixturevalue("served_host")
        host, variables = served
        names = [host.read(f"/local/domain/{domain.domid}/name") for domain in host.domains()]
        if names != [b"Domain-0", b"web1", b"db1"]:
            host.reset()  # from what other tests have left there
            host.create_domain("web1")
            host.create_domain("db1")
        return variables

    if page.name == "README.md" and page.parent == pages.ROOT:
        # Its reader is in a fresh checkout.
        checkout.copy(require, tmp_path)
    pages.run_page(page, tmp_path, environment)


def test_the_blocks_that_are_not_run_are_counted_and_say_why() -> None:
    untried = {name: sum(bool(block.not_run) for block in found) for name, found in SHOWN.items()}
    assert {name: count for name, count in untried.items() if count} == NOT_RUN


def test_every_block_is_of_a_kind_that_is_run_or_of_one_that_is_nothing_to_run() -> None:
    strange = {
        str(block): block.language
        for found in SHOWN.values()
        for block in found
        if block.language not in pages.PROGRAMS | pages.SHOWN
    }
    assert not strange


@pytest.mark.parametrize("page", ELSEWHERE)
def test_a_page_that_is_not_run_here_is_the_business_of_a_test_of_its_own(page: str) -> None:
    assert page.removesuffix(".md") in Path(__file__).with_name(ELSEWHERE[page]).read_text()
