# SPDX-License-Identifier: LGPL-2.1-or-later
import copy
import errno
import pickle
import re

import pytest
from requirements import Requirements

from gxl import errors
from gxl.errors import (
    BY_CODE,
    ContextClosed,
    Disaster,
    DomainNotFound,
    EngineUnavailable,
    Fail,
    GxlError,
    LibxlError,
    MisuseError,
    OSEventRegFail,
    WaitTimeout,
    describe,
    from_rc,
)

# libxl_types.idl, `libxl_error`, the same from Xen 4.14 to 4.22.
IDL = (
    *("NONSPECIFIC", "VERSION", "FAIL", "NI", "NOMEM", "INVAL", "BADFAIL", "GUEST_TIMEDOUT", "TIMEDOUT", "NOPARAVIRT"),
    *("NOT_READY", "OSEVENT_REG_FAIL", "BUFFERFULL", "UNKNOWN_CHILD", "LOCK_FAIL", "JSON_CONFIG_EMPTY"),
    *("DEVICE_EXISTS", "CHECKPOINT_DEVOPS_DOES_NOT_MATCH", "CHECKPOINT_DEVICE_NOT_SUPPORTED", "VNUMA_CONFIG_INVALID"),
    *("DOMAIN_NOTFOUND", "ABORTED", "NOTFOUND", "DOMAIN_DESTROYED", "FEATURE_REMOVED", "PROTOCOL_ERROR_QMP"),
    *("UNKNOWN_QMP_ERROR", "QMP_GENERIC_ERROR", "QMP_COMMAND_NOT_FOUND", "QMP_DEVICE_NOT_ACTIVE"),
    *("QMP_DEVICE_NOT_FOUND", "QEMU_API"),
)
CODES = {name: -number for number, name in enumerate(IDL, start=1)}


def words(name: str) -> str:
    return re.sub("[^a-z]", "", name.lower())


def test_every_code_of_the_idl_has_the_class_of_its_name() -> None:
    named = {words(cls.__name__): code for code, cls in BY_CODE.items()}
    renamed = {"notimplementedbylibxl": "ni", "protocolerrorqmp": "protocolerrorqmp"}
    assert {renamed.get(name, name): code for name, code in named.items()} == {
        words(name): code for name, code in CODES.items()
    }


def test_the_codes_are_those_of_the_header(require: Requirements) -> None:
    header = require.file("/usr/include/_libxl_types.h").read_text()
    assert {name: int(code) for name, code in re.findall(r"\bERROR_(\w+) = (-\d+)", header)} == CODES


@pytest.mark.parametrize("code", [*CODES.values()])
def test_a_code_becomes_the_exception_of_its_class(code: int) -> None:
    error = from_rc(code, "libxl_domain_pause of domain 7")
    assert type(error) is BY_CODE[code]
    assert error.rc == type(error).code == code
    assert str(error) == f"libxl_domain_pause of domain 7: libxl error {code} ({type(error).__name__})"


def test_a_code_without_a_class_keeps_its_number() -> None:
    error = from_rc(-77)
    assert type(error) is LibxlError
    assert error.rc == -77
    assert "-77" in str(error)
    assert describe(-77) == "not a code that gxl knows"


def test_a_positive_code_is_a_hooks_own() -> None:
    error = from_rc(9, "libxl_evenable_domain_death")
    assert type(error) is OSEventRegFail
    assert error.rc == 9
    assert "hook" in str(error)


def test_an_error_made_without_arguments_has_its_classs_code() -> None:
    assert Fail().rc == -3
    assert OSEventRegFail().rc == -12
    assert str(DomainNotFound()) == "libxl error -21 (DomainNotFound)"


@pytest.mark.parametrize("rc", [0, -1, -13, 2**31])
def test_a_hook_can_fail_only_as_the_header_allows(rc: int) -> None:
    with pytest.raises(ValueError, match=re.escape(str(rc))):
        OSEventRegFail(rc)


@pytest.mark.parametrize("rc", [True, "9", 1.5, None])
def test_a_hooks_code_is_an_int(rc: int) -> None:
    with pytest.raises(TypeError, match=re.escape(repr(rc))):
        OSEventRegFail(rc)


def test_an_unavailable_engine_lists_what_was_tried() -> None:
    error = EngineUnavailable(
        "no engine could be opened", (("libxenlight.so.4.17", "no such file"), ("embedded", "no"))
    )
    assert str(error) == "no engine could be opened\n  libxenlight.so.4.17: no such file\n  embedded: no"
    assert error.attempts[1] == ("embedded", "no")


def test_a_disaster_names_the_errno() -> None:
    assert str(Disaster(0, "waitpid failed")) == "waitpid failed"
    assert str(Disaster(3, "write", errno.ENOSPC)) == "write (ENOSPC: No space left on device)"
    assert "4095" in str(Disaster(3, "write", 4095))


def test_a_wait_timeout_is_a_timeout_error() -> None:
    assert issubclass(WaitTimeout, TimeoutError)


@pytest.mark.parametrize(
    "error",
    [
        from_rc(-3, "libxl_ctx_alloc"),
        from_rc(-77),
        from_rc(5),
        Fail(),
        OSEventRegFail(5, "no more fds"),
        MisuseError("not from here"),
        EngineUnavailable("none", (("this", "that"),)),
        ContextClosed("closed"),
        Disaster(3, "write", errno.ENOSPC),
        WaitTimeout("nothing within 3 s"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_survives_pickling_and_copying(error: GxlError) -> None:
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(twin) is type(error)
        assert str(twin) == str(error)
        assert vars(twin) == vars(error)


def test_every_error_of_gxls_own_is_a_gxl_error() -> None:
    classes = [cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, BaseException)]
    assert len(classes) > len(CODES)
    assert all(issubclass(cls, GxlError) for cls in classes)
