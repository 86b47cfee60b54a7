# SPDX-License-Identifier: LGPL-2.1-or-later
"""What `pip install` gives: built here from a copy of the tree, as pip builds it."""

import shutil
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_bytes
from email.message import Message
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TREE = ("gxl", "pytest_gxl.py", "setup.cfg", "setup.py", "pyproject.toml", "README.md", "LICENSE")
# cffi writes it while the package is built; in a checkout it may be there already.
GENERATED = "gxl/engines/libxl/_declared.py"
# pytest's, outside the package: pytest_gxl.py says why.
PLUGIN = "pytest_gxl.py"


def build(what: str, tree: Path, target: Path) -> Path:
    """Call a hook of the build backend (PEP 517) as pip does, in a process of its own."""
    code = f"import setuptools.build_meta as backend; backend.build_{what}({str(target)!r})"
    done = subprocess.run([sys.executable, "-c", code], cwd=tree, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(iter(target.glob("*.whl" if what == "wheel" else "*.tar.gz")))


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tree = tmp_path_factory.mktemp("tree")
    for name in TREE:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tree / name, ignore=shutil.ignore_patterns("__pycache__", "_declared.py", "*.so"))
        else:
            shutil.copy(source, tree)
    return build("sdist", tree, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    unpacked = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extractall(unpacked, filter="data")
    return build("wheel", next(iter(unpacked.iterdir())), tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return message_from_bytes(archive.read(name))


def test_a_wheel_built_from_the_sdist_has_every_file_of_the_package_and_no_other(wheel: Path) -> None:
    present = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "gxl").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".so"
    }
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert packed == present | {GENERATED, PLUGIN}


def test_the_wheel_needs_no_compiler_and_fits_every_machine(wheel: Path) -> None:
    assert wheel.name.endswith("-py3-none-any.whl")


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
