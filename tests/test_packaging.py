# SPDX-License-Identifier: LGPL-2.1-or-later
"""What `pip install` gives: built here from a clean checkout, as pip builds it. `.ci/pythons` installs it, too."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from email import message_from_bytes
from email.message import Message
from importlib import import_module
from pathlib import Path

import checkout
import pytest
from requirements import Requirements

ROOT = Path(__file__).parent.parent
# cffi writes it while the package is built; in a checkout it may be there already.
GENERATED = "gxl/engines/libxl/_declared.py"
# Where there was a compiler.
COMPILED = f"gxl/_compiled{sysconfig.get_config_var('EXT_SUFFIX')}"
# pytest's, outside the package: pytest_gxl.py says why.
PLUGIN = "pytest_gxl.py"


def build(what: str, tree: Path, target: Path, **variables: str) -> Path:
    """Call a hook of the build backend (PEP 517) as pip does, in a process of its own."""
    code = f"import setuptools.build_meta as backend; backend.build_{what}({str(target)!r})"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tree,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, **variables},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return next(iter(target.glob("*.whl" if what == "wheel" else "*.tar.gz")))


@pytest.fixture(scope="module")
def sdist(require: Requirements, tmp_path_factory: pytest.TempPathFactory) -> Path:
    tree = tmp_path_factory.mktemp("tree")
    checkout.copy(require, tree)
    return build("sdist", tree, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def unpacked(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extractall(directory, filter="data")
    return next(iter(directory.iterdir()))


@pytest.fixture(scope="module")
def wheel(unpacked: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", unpacked, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def plain_wheel(unpacked: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built where there is no compiler."""
    tree = tmp_path_factory.mktemp("plain") / "tree"
    shutil.copytree(unpacked, tree, ignore=shutil.ignore_patterns("build"))
    return build("wheel", tree, tmp_path_factory.mktemp("plain_wheel"), CC="false", CXX="false")


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return message_from_bytes(archive.read(name))


def test_the_sdist_is_the_whole_checkout(unpacked: Path, require: Requirements) -> None:
    packed = {str(path.relative_to(unpacked)) for path in unpacked.rglob("*") if path.is_file()}
    made = {name for name in packed if name == "PKG-INFO" or name.startswith("gxl.egg-info/")}
    # A wheel may have been built from it: in the same place.
    assert {name for name in packed - made if not name.startswith("build/")} - {GENERATED} == checkout.tracked(require)


def test_a_test_of_the_sdist_can_be_collected(unpacked: Path) -> None:
    collect = [
        sys.executable,
        "-m",
        "pytest",
        "--collect-only",
        "-q",
        "-p",
        "no:cacheprovider",
        "tests/test_embedded.py",
    ]
    variables = {**os.environ, "PYTHONPATH": str(unpacked)}
    done = subprocess.run(
        collect, cwd=unpacked, env=variables, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "tests/test_embedded.py::" in done.stdout


def test_a_wheel_built_from_the_sdist_has_every_file_of_the_package_and_no_other(
    wheel: Path, require: Requirements
) -> None:
    require.program("cc")
    require.file(Path(sysconfig.get_path("include")) / "Python.h")
    assert content(wheel) == expected(require) | {COMPILED}


def test_without_a_compiler_the_wheel_lacks_the_compiled_part_and_nothing_else(
    plain_wheel: Path, require: Requirements
) -> None:
    assert content(plain_wheel) == expected(require)


def content(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def expected(require: Requirements) -> set[str]:
    """Without the compiled part."""
    return {name for name in checkout.tracked(require) if name.startswith("gxl/")} | {GENERATED, PLUGIN}


def test_what_is_installed_takes_the_compiled_part_if_it_is_there(
    wheel: Path, plain_wheel: Path, require: Requirements, tmp_path: Path
) -> None:
    require.program("cc")
    require.file(Path(sysconfig.get_path("include")) / "Python.h")
    for built, form in ((wheel, "compiled"), (plain_wheel, "plain")):
        with zipfile.ZipFile(built) as archive:
            archive.extractall(tmp_path / form)
        # Without site, whose finder of what is installed to be edited would find this checkout's.
        paths = [str(tmp_path / form), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
        code = f"import sys; sys.path += {paths!r}; import gxl.compiled as c; print(c.form)"
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, timeout=60, check=True
        )
        assert done.stdout == f"{form}\n"


def test_the_licence_is_named_and_included(wheel: Path, metadata: Message) -> None:
    assert metadata["License-Expression"] == "LGPL-2.1-or-later"
    with zipfile.ZipFile(wheel) as archive:
        assert any(name.endswith("/LICENSE") for name in archive.namelist())


def test_what_is_required_is_what_is_imported(metadata: Message) -> None:
    required = {entry.split(">")[0].strip() for entry in metadata.get_all("Requires-Dist", []) if "extra" not in entry}
    assert required == {"zope.interface", "gevent", "cffi", "click"}


def test_every_entry_point_leads_somewhere(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/entry_points.txt"))
        lines = archive.read(name).decode().splitlines()
    targets = [line.split("=")[1].strip() for line in lines if "=" in line]
    assert "gxl.cli:main" in targets
    for target in targets:
        module, _, attribute = target.partition(":")
        found = import_module(module)
        assert not attribute or callable(getattr(found, attribute)), target
