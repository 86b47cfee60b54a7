# SPDX-License-Identifier: LGPL-2.1-or-later
"""The fixture `simhost`, as the tests of somebody's program use it: each in a pytest of its own."""

from __future__ import annotations

import pytest

pytest_plugins = ["pytester"]

PROGRAM = """
import gevent
import gxl


def end_of(name):
    with gxl.Context(hub="gevent") as ctx:
        return ctx.wait_shutdown(name, timeout=10)
"""


def check(pytester: pytest.Pytester, passed: int) -> None:
    """Run the user's tests, in which no warning may come, nor anything be printed that pytest does not print."""
    done = pytester.runpytest_subprocess("-q", "-W", "error", "-p", "no:cacheprovider")
    done.assert_outcomes(passed=passed)
    assert done.stderr.lines == []


def test_a_program_that_names_no_engine_runs_on_the_simulated_host(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        program=PROGRAM,
        test_program="""
        import gevent
        import gxl
        import program

        def test_a_guest_that_crashes_is_seen(simhost):
            simhost.create_domain("web1")
            seen = gevent.spawn(program.end_of, "web1")
            gevent.sleep(0)
            simhost.shutdown_domain(1, gxl.ShutdownReason.CRASH)
            assert seen.get(timeout=10).shutdown_reason is gxl.ShutdownReason.CRASH
        """,
    )
    check(pytester, passed=1)


def test_each_test_has_a_host_of_its_own_for_all_its_contexts_and_none_is_left_afterwards(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile(
        """
        import os

        import gxl
        import pytest
        from gxl.engines.embedded import EmbeddedEngine

        @pytest.mark.parametrize("again", range(2))
        def test_two_views_of_one_host(simhost, again):
            assert [domain.domid for domain in simhost.domains()] == [0]
            simhost.create_domain("web1", domid=5)
            with gxl.Context() as one, gxl.Context(engine="embedded") as other:
                assert one.domid_of("web1") == other.domid_of("web1") == 5

        def test_without_the_fixture_nothing_is_simulated():
            assert "GXL_ENGINE" not in os.environ
            assert EmbeddedEngine.default_host is None
        """
    )
    check(pytester, passed=3)


def test_nothing_is_imported_before_a_conftest_patches_the_process(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        """
        import sys

        assert not {"gxl", "gevent"} & {name.partition(".")[0] for name in sys.modules}

        from gevent import monkey

        monkey.patch_all()
        """
    )
    pytester.makepyfile(
        """
        import threading

        import gxl
        from gevent.monkey import is_module_patched

        def test_a_thread_that_is_a_greenlet_waits(simhost):
            assert is_module_patched("threading")
            domid = simhost.create_domain("web1")
            with gxl.Context() as ctx:
                ended = []
                thread = threading.Thread(target=lambda: ended.append(ctx.wait_shutdown(domid, timeout=10)))
                thread.start()
                simhost.destroy_domain(domid)
                thread.join(10)
            assert [type(event) for event in ended] == [gxl.DomainDeath]
        """
    )
    check(pytester, passed=1)


def test_a_program_on_asyncio_runs_on_it_too(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import asyncio
        import gxl

        def test_a_death_is_awaited(simhost):
            domid = simhost.create_domain("web1")

            async def main():
                async with gxl.Context() as ctx:
                    async with asyncio.timeout(10):
                        with ctx.expect(gxl.DomainDeath, domid) as death:
                            simhost.destroy_domain(domid)
                            return await death

            assert asyncio.run(main()).domid == domid
        """
    )
    check(pytester, passed=1)


def test_a_context_that_a_test_forgets_does_not_break_the_next(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import gevent
        import gxl

        forgotten = []

        def test_that_forgets(simhost):
            simhost.create_domain("web1")
            forgotten.append(gxl.Context(hub="gevent"))
            forgotten.append(gevent.spawn(forgotten[0].event_wait))
            gevent.sleep(0)

        def test_that_comes_next(simhost):
            gevent.sleep(0.01)
            assert isinstance(forgotten[1].exception, gxl.Disaster)
            simhost.create_domain("web2")
            with gxl.Context(hub="gevent") as ctx:
                assert [domain.name for domain in ctx.list_domain() if domain.domid] == ["web2"]
        """
    )
    done = pytester.runpytest_subprocess("-q", "-W", "error", "-p", "no:cacheprovider")
    done.assert_outcomes(passed=2)
