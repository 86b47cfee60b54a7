# SPDX-License-Identifier: LGPL-2.1-or-later
"""The emulated Xen host's own machinery, as far as it can be seen without booting one."""

from __future__ import annotations

import io
import subprocess
from pathlib import Path

import pytest
from requirements import Requirements

from realxen import images, parts
from realxen.__main__ import main
from realxen.machine import Files, MachineFailed, Progress, run


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def test_an_archive_is_what_the_field_calls_newc(require: Requirements, tmp_path: Path) -> None:
    archive = images.cpio({"bin": None, "bin/tool": b"#!/bin/sh\n", "a note": b"12345"}, frozenset({"bin/tool"}))
    subprocess.run([require.program("busybox"), "cpio", "-id"], input=archive, cwd=tmp_path, check=True, timeout=10)
    assert (tmp_path / "bin/tool").read_bytes() == b"#!/bin/sh\n"
    assert (tmp_path / "bin/tool").stat().st_mode & 0o111
    assert (tmp_path / "a note").read_bytes() == b"12345"
    assert not (tmp_path / "a note").stat().st_mode & 0o111


def test_the_newest_version_is_not_the_first_in_the_alphabet() -> None:
    assert max("6.1.0-9-amd64", "6.1.0-56-amd64", "5.10.0-99-amd64", key=parts.version_key) == "6.1.0-56-amd64"


def test_everything_that_is_missing_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "_program", lambda name, package, missing: missing.append(f"{name} (package {package})"))
    monkeypatch.setattr(parts, "_newest_kernel", lambda missing: missing.append("a kernel"))
    with pytest.raises(parts.Missing) as told:
        parts.find()
    assert "qemu-system-x86_64 (package qemu-system-x86)" in str(told.value)
    assert "modprobe (package kmod)" in str(told.value)
    assert "a kernel" in str(told.value)


def test_the_commands_output_and_exit_status_come_back(files: Files) -> None:
    shown = io.BytesIO()
    status = f"echo 7 > {files.share}/new; mv {files.share}/new {files.status}"
    machine = f"echo out > {files.output}; {status}; exec sleep 60"
    assert run(["sh", "-c", machine], files, 30, shown, Progress()) == 7
    assert shown.getvalue() == b"out\n"


def test_a_machine_that_hangs_is_killed_and_its_console_shown(files: Files) -> None:
    machine = f"echo $$ > {files.share}/pid; echo '\x1b[1mlast words\x1b[0m' > {files.console}; exec sleep 60"
    with pytest.raises(MachineFailed, match=r"no end within 0\.5 s(.|\n)*\| last words"):
        run(["sh", "-c", machine], files, 0.5, io.BytesIO(), Progress())
    assert not Path("/proc", (files.share / "pid").read_text().strip()).exists()


def test_a_machine_that_stops_without_a_verdict_says_why(files: Files) -> None:
    machine = f"echo 'Kernel panic - not syncing: x' > {files.console}; echo no such disk >&2; exit 1"
    with pytest.raises(MachineFailed) as told:
        run(["sh", "-c", machine], files, 30, io.BytesIO(), Progress())
    assert "stopped by itself" in str(told.value)
    assert "Kernel panic" in str(told.value)
    assert "QEMU said: no such disk" in str(told.value)


@pytest.mark.parametrize(
    "arguments",
    [["--timeout", "0"], ["--timeout", "nan"], ["--memory", "64"], ["--accel", "hvf"], ["--shell", "true", "-x"]],
)
def test_arguments_without_sense_are_refused_before_anything_starts(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
