# SPDX-License-Identifier: LGPL-2.1-or-later
"""Finding libxenlight, proving it, and saying clearly why it can't be had."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cffi import FFI

from gxl.engines.libxl import LibxlEngine, abi, declarations, loading
from gxl.engines.libxl.loading import ffi
from gxl.errors import EngineUnavailable
from gxl.simhost.remote import RemoteHost

pytest_plugins = ["libxl_fixtures"]


@pytest.fixture
def library(needs_library: str, monkeypatch: pytest.MonkeyPatch) -> loading.Library:
    """This machine's libxenlight."""
    monkeypatch.delenv(loading.VARIABLE, raising=False)
    return loading.load()


@pytest.fixture
def path(library: loading.Library) -> Path:
    """The file of this machine's libxenlight."""
    name, _ = loading.mapped_object(ffi.addressof(library.lib, "libxl_ctx_alloc"))
    return Path(name).resolve()


def refused(pattern: str) -> EngineUnavailable:
    """The error of load(), which must match."""
    with pytest.raises(EngineUnavailable, match=pattern) as raised:
        loading.load()
    assert "GXL_ENGINE=embedded" in str(raised.value)
    return raised.value


def test_the_library_says_what_it_is(library: loading.Library, path: Path) -> None:
    match = re.search(r"libxenlight\.so\.4\.(\d+)", path.name)
    assert match
    assert library.version == f"{path.name} (libxl 4.{match[1]})"
    assert loading.load() is library


def test_the_variable_decides_alone(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(loading.VARIABLE, str(path))
    assert loading.load().version.startswith(path.name)
    monkeypatch.setenv(loading.VARIABLE, "/no/such/libxenlight.so")
    error = refused(r"The library that \$GXL_LIBXENLIGHT names can't be loaded")
    assert [what for what, _ in error.attempts] == ["/no/such/libxenlight.so"]


def test_a_library_that_is_no_libxenlight_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(loading.VARIABLE, "libc.so.6")
    refused(r"libc\.so\.6 is no libxenlight")


@pytest.mark.parametrize("version", ["4.13", "4.23", "5.1"])
def test_a_version_that_gxl_does_not_know_is_refused(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    copy = tmp_path / f"libxenlight.so.{version}.0"
    shutil.copy(path, copy)
    monkeypatch.setenv(loading.VARIABLE, str(copy))
    error = refused(r"is of the wrong version: gxl knows libxl from Xen 4\.14 to 4\.22")
    assert error.attempts == ((str(copy), f"version {version}"),)


def test_a_library_of_the_right_version_and_another_layout_is_refused(
    needs_library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, require: Any
) -> None:
    source = """
        #include <stdlib.h>
        #include <string.h>
        STUBS
        void libxl_event_init(void *event) {}
        void libxl_event_init_type(void *event, int type) {}
        char *libxl_event_to_json(void *ctx, void *event) { return strdup("{\\"domid\\": 3}"); }
    """
    stubs = set(re.findall(r"\b((?:libxl|xtl|xs)_\w+)\(", declarations.LIBXL + declarations.FRIENDS))
    stubs -= set(re.findall(r"libxl_event_\w+", source))
    source = source.replace("STUBS", " ".join(f"void {name}(void) {{}}" for name in stubs))
    (tmp_path / "libxl.c").write_text(source)
    built = tmp_path / "libxenlight.so.4.18.0"
    subprocess.run([require.program("cc"), "-shared", "-fPIC", "-o", built, tmp_path / "libxl.c"], check=True)
    monkeypatch.setenv(loading.VARIABLE, str(built))
    error = refused("lays its data out in a way that gxl does not know")
    assert error.attempts[0][1] == "event.for_user: wrote 0x123456789abcdef, the library reads None"


@pytest.fixture
def find(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., list[str]]:
    """Searches on a machine that runs a Xen and has libraries; returns the names asked for, the chosen one last."""

    def searched(running: str, installed: list[int]) -> list[str]:
        hypervisor = tmp_path / "hypervisor"
        monkeypatch.setattr(loading, "_HYPERVISOR", hypervisor)
        if running:
            (hypervisor / "version").mkdir(parents=True)
            (hypervisor / "type").write_text("xen\n")
            major, _, minor = running.partition(".")
            (hypervisor / "version/major").write_text(f"{major}\n")
            (hypervisor / "version/minor").write_text(f"{minor}\n")
        monkeypatch.delenv(loading.VARIABLE, raising=False)
        asked = []

        def open_library(name: str, attempts: list[tuple[str, str]]) -> object:
            asked.append(name)
            if name in map(loading.soname, installed):
                return name
            attempts.append((name, "not there"))
            return None

        monkeypatch.setattr(loading, "_open", open_library)
        monkeypatch.setattr(loading, "_prove", lambda name, lib: name)
        loading.load()
        return asked

    return searched


@pytest.mark.parametrize(
    ("running", "installed", "chosen"),
    [
        ("", [14, 17, 20], 20),
        ("4.17", [14, 17, 20], 17),
        ("4.18", [14, 17, 20], 20),
        ("4.11", [14, 17, 20], 20),
        ("4.30", [14, 17, 20], 20),
        ("3.4", [4, 17], 17),
        ("4.x", [17], 17),
        ("", [12], 12),  # to be refused as too old, rather than called absent
        ("", [25], 25),
    ],
)
def test_the_running_hypervisors_library_comes_before_the_newest(
    find: Callable[..., list[str]], running: str, installed: list[int], chosen: int
) -> None:
    assert find(running, installed)[-1] == loading.soname(chosen)


def test_where_there_is_no_library_all_names_that_were_tried_are_listed(find: Callable[..., list[str]]) -> None:
    with pytest.raises(EngineUnavailable, match="libxenlight is not installed") as raised:
        find("4.15", [])
    names = [what for what, _ in raised.value.attempts]
    assert names[:3] == ["libxenlight.so.4.15", "libxenlight.so.4.22", "libxenlight.so.4.21"]
    assert sorted(names) == [f"libxenlight.so.4.{minor}" for minor in range(14, 23)]
    assert "set $GXL_LIBXENLIGHT" in str(raised.value)


def test_declared_members_are_where_every_release_has_them() -> None:
    """Offsets on 64-bit machines, from the headers of Xen 4.14 to 4.22."""
    expected: dict[str, dict[str, int]] = {
        "libxl_event": {"link": 0, "domid": 16, "domuuid": 20, "for_user": 40, "type": 48, "u": 56},
        "libxl_device_disk": {
            "backend_domid": 0,
            "backend_domname": 8,
            "pdev_path": 16,
            "vdev": 24,
            "backend": 32,
            "format": 36,
            "script": 40,
            "removable": 48,
            "readwrite": 52,
            "is_cdrom": 56,
        },
        "libxl_dominfo": {
            "uuid": 0,
            "domid": 16,
            "ssidref": 20,
            "ssid_label": 24,
            "running": 32,
            "blocked": 33,
            "paused": 34,
            "shutdown": 35,
            "dying": 36,
            "never_stop": 37,
            "shutdown_reason": 40,
            "outstanding_memkb": 48,
            "current_memkb": 56,
            "shared_memkb": 64,
            "paged_memkb": 72,
            "max_memkb": 80,
            "cpu_time": 88,
        },
        "libxl_event_hooks": {"event_occurs_mask": 0, "event_occurs": 8, "disaster": 16},
        "libxl_osevent_hooks": {"fd_register": 0, "fd_modify": 8, "timeout_register": 24, "timeout_deregister": 40},
        "libxl_childproc_hooks": {"chldowner": 0, "fork_replacement": 8, "reaped_callback": 16},
        "libxl_asyncop_how": {"callback": 0, "u": 8},
    }
    for struct, members in expected.items():
        assert {member: ffi.offsetof(struct, member) for member in members} == members
    assert ffi.offsetof("libxl_event", "u", "disk_eject", "disk") == 64


HEADERS = """
#include <stddef.h>
#include <stdio.h>
#include <signal.h>
#include <libxl.h>
int main(void) {
    %s
    return 0;
}
"""


def test_declared_members_are_where_this_machines_headers_have_them(require: Any, tmp_path: Path) -> None:
    require.file("/usr/include/libxl.h")
    structs = ["event", "device_disk", "dominfo", "event_hooks", "osevent_hooks", "childproc_hooks", "asyncop_how"]
    members = {f"libxl_{name}": [field for field, _ in ffi.typeof(f"libxl_{name}").fields] for name in structs}
    members["libxl_event"] += ["u.domain_shutdown.shutdown_reason", "u.disk_eject.vdev", "u.disk_eject.disk"]
    lines = [
        f'printf("{struct} {member} %zu\\n", offsetof({struct}, {member}));'
        for struct, names in members.items()
        for member in names
    ]
    (tmp_path / "offsets.c").write_text(HEADERS % "\n".join(lines))
    program = tmp_path / "offsets"
    subprocess.run([require.program("cc"), "-o", program, tmp_path / "offsets.c"], check=True)
    output = subprocess.run([program], capture_output=True, text=True, check=True).stdout
    for line in output.splitlines():
        struct, member, offset = line.split()
        steps = member.split(".")
        assert (line, ffi.offsetof(struct, *steps)) == (line, int(offset))


SHIFTS = [
    ("uint32_t domid;\n    uint8_t domuuid", "uint32_t hole; uint32_t domid;\n    uint8_t domuuid", "event.domid"),
    ("uint8_t domuuid[16];\n    uint64_t for_user", "uint64_t for_user;\n    uint8_t domuuid[16]", "event.for_user"),
    ("int type;\n    union", "int hole; int type;\n    union", "event.type"),
    ("struct { uint8_t shutdown_reason; }", "struct { uint8_t hole, shutdown_reason; }", "shutdown_reason"),
    ("struct { int rc; } operation", "struct { int hole, rc; } operation", "operation_complete.rc"),
    ("uint32_t backend_domid;", "uint32_t hole, backend_domid;", "disk.backend_domid"),
    ("char *backend_domname;\n    char *pdev_path;", "char *pdev_path;\n    char *backend_domname;", "backend_domname"),
    ("char *vdev;\n    int backend;\n    int format", "char *vdev;\n    int format;\n    int backend", "disk.backend"),
    ("int removable;\n    int readwrite;", "int readwrite;\n    int removable;", "disk.removable"),
    ("int is_cdrom;", "int hole; int is_cdrom;", "disk.is_cdrom"),
    ("uint32_t domid;\n    uint32_t ssidref", "uint32_t ssidref;\n    uint32_t domid", "dominfo.domid"),
    ("bool paused;\n    bool shutdown", "bool shutdown;\n    bool paused", "dominfo flags"),
    ("int shutdown_reason;", "int hole; int shutdown_reason;", "dominfo.shutdown_reason"),
    ("uint64_t current_memkb;", "uint64_t hole; uint64_t current_memkb;", "dominfo.current_memkb"),
    ("uint64_t cpu_time;", "uint64_t hole; uint64_t cpu_time;", "dominfo.cpu_time"),
]


@pytest.mark.parametrize(("declared", "shifted", "where"), SHIFTS, ids=[where for _, _, where in SHIFTS])
def test_a_member_elsewhere_is_found_out(path: Path, declared: str, shifted: str, where: str) -> None:
    text = declarations.LIBXL + declarations.FRIENDS + declarations.LIBC
    assert declared in text
    builder = FFI()
    builder.cdef(text.replace(declared, shifted))
    builder.set_source("shifted", None)
    other = loading.build(builder)
    with pytest.raises(abi.Mismatch, match=re.escape(where)):
        abi.prove(other, other.dlopen(str(path)), other.dlopen(None))


def test_a_missing_function_is_found_out(path: Path) -> None:
    text = declarations.LIBXL + declarations.FRIENDS + declarations.LIBC
    builder = FFI()
    builder.cdef(text + "void libxl_from_the_future(void);")
    builder.set_source("from_the_future", None)
    other = loading.build(builder)
    with pytest.raises(abi.Mismatch, match="lacks a function: symbol 'libxl_from_the_future'"):
        abi.prove(other, other.dlopen(str(path)), other.dlopen(None))


ON_BUILT_DECLARATIONS = """
import importlib.util, sys
name = "gxl.engines.libxl._declared"
spec = importlib.util.spec_from_file_location(name, sys.argv[1])
sys.modules[name] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules[name])
from gxl.engines.libxl import LibxlEngine, loading
from gxl.interfaces import AsyncHow
assert loading.ffi is sys.modules[name].ffi
engine = LibxlEngine()
(domid,) = (info.domid for info in engine.list_domain() if info.domid)
engine.evenable_domain_death(domid)
engine.domain_pause(domid, AsyncHow())
engine.domain_destroy(domid)
seen = set()
while len(seen) < 2:
    seen.add(type(engine.event_wait(predicate=lambda event: True)).__name__)
print(*sorted(seen), "pycparser" in sys.modules)
engine.ctx_free()
"""


def test_the_engine_works_on_built_declarations_without_a_parser_for_c(host: RemoteHost, tmp_path: Path) -> None:
    """Installing builds them; in a checkout the other tests run on what is made as it is loaded."""
    built = tmp_path / "_declared.py"
    declarations.ffibuilder.emit_python_code(str(built))
    host.create_domain()
    done = subprocess.run(
        [sys.executable, "-c", ON_BUILT_DECLARATIONS, str(built)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("DomainDeath OperationComplete False\n", "")


def test_every_declared_function_exists(library: loading.Library) -> None:
    declared = set(dir(library.lib))
    text = declarations.LIBXL + declarations.FRIENDS + declarations.LIBC
    named = set(re.findall(r"^\S.*?\b(\w+)\([^*]", text, re.MULTILINE)) - {"libxl_event_predicate"}
    assert named == declared
    for name in declared:
        assert getattr(library.lib, name)


@pytest.fixture
def nowhere(library: loading.Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory where no daemon listens, and to which everything is pointed."""
    monkeypatch.setenv("XENSTORED_RUNDIR", str(tmp_path))
    monkeypatch.setenv("XENSTORED_PATH", str(tmp_path / "xenbus"))
    monkeypatch.delenv("GXL_SIM_HYPERCALLS", raising=False)
    return tmp_path


def test_without_xen_the_engine_says_so(leaves_nothing: None, nowhere: Path, library: loading.Library) -> None:
    if os.path.exists("/dev/xen/privcmd"):
        pytest.skip("this machine has Xen")
    with pytest.raises(EngineUnavailable, match="There is no Xen here") as raised:
        LibxlEngine()
    assert all(what == library.version for what, _ in raised.value.attempts)
    assert "cannot open libxc handle: No such file or directory" in str(raised.value)


def test_without_xenstored_the_engine_says_so(
    host: RemoteHost, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XENSTORED_RUNDIR", str(tmp_path))
    monkeypatch.setenv("XENSTORED_PATH", str(tmp_path / "xenbus"))
    with pytest.raises(EngineUnavailable, match="xenstored can't be reached") as raised:
        LibxlEngine()
    assert "cannot connect to xenstore: No such file or directory" in str(raised.value)


LOCKED = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
#define AT_FDCWD -100
int open64(const char *path, int flags, int mode)
{
    if (strcmp(path, "/dev/xen/privcmd") == 0) {
        errno = EACCES;
        return -1;
    }
    return syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}
int open(const char *path, int flags, int mode) { return open64(path, flags, mode); }
"""


def test_without_permission_the_engine_says_so(nowhere: Path, require: Any, tmp_path: Path) -> None:
    (tmp_path / "locked.c").write_text(LOCKED)
    locked = tmp_path / "locked.so"
    subprocess.run([require.program("cc"), "-shared", "-fPIC", "-o", locked, tmp_path / "locked.c"], check=True)
    done = subprocess.run(
        [sys.executable, "-c", "import gxl.engines.libxl as libxl; libxl.LibxlEngine()"],
        env={**os.environ, "LD_PRELOAD": str(locked)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "No permission to talk to Xen: run as root" in done.stderr
