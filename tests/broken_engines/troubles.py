# SPDX-License-Identifier: LGPL-2.1-or-later
"""Engines that are wrong about what goes wrong: no child can be had, xenstored is lost, a callback raises."""

from __future__ import annotations

import contextlib
import os
from typing import Any

from broken_engines import Patch, fails, parts
from gxl.engines.embedded import EmbeddedEngine, children, core
from gxl.errors import Disaster


@fails("children.whatever_a_fork_replacement_raises_the_operation_fails_and_the_next_works")
def what_a_fork_replacement_raises_is_forgotten(engine: EmbeddedEngine, patch: Patch) -> None:
    patch.setattr(core.Core, "keep", lambda self, error: None)


@fails("children.whatever_a_fork_replacement_raises_the_operation_fails_and_the_next_works")
def a_fork_replacement_that_raises_leaves_the_operation_open(engine: EmbeddedEngine, patch: Patch) -> None:
    fork = children.Children.fork

    def spoilt(self: Any, body: Any, callback: Any) -> int:
        try:
            return fork(self, body, callback)
        except Exception:
            self._callbacks[0] = callback
            return 0

    patch.setattr(children.Children, "fork", spoilt)


@fails("children.a_fork_that_fails_fails_the_operation_and_spares_the_domain")
def a_fork_that_fails_is_an_exception_of_the_call(engine: EmbeddedEngine, patch: Patch) -> None:
    fork = children.Children._fork

    def spoilt(self: Any) -> int:
        try:
            return fork(self)
        except OSError as error:
            raise ValueError from error

    patch.setattr(children.Children, "_fork", spoilt)


@fails("children.a_child_that_somebody_else_reaped_fails_its_operation_only")
def a_stolen_child_ends_the_engine(engine: EmbeddedEngine, patch: Patch) -> None:
    disaster = core.Core.disaster

    def spoilt(self: Any, type: int, message: str, errnoval: int = 0, **how: Any) -> None:
        disaster(self, type, message, errnoval, **how | {"fatal": True})

    patch.setattr(core.Core, "disaster", spoilt)


@fails("children.many_children_at_once_are_all_reaped")
def one_child_is_reaped_for_each_signal(engine: EmbeddedEngine, patch: Patch) -> None:
    def spoilt(self: Any, revents: int) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._pipe[0], 256)
        with contextlib.suppress(ChildProcessError):
            self.reaped(*os.waitpid(-1, os.WNOHANG))

    patch.setattr(children.Children, "_signalled", spoilt)
    patch.setattr(children.Children, "_poll_for", lambda self, pid: None)


@fails("sigchld.a_reaped_callback_that_raises_is_a_disaster_and_the_rest_goes_on")
def what_a_reaped_callback_raises_is_swallowed(engine: EmbeddedEngine, patch: Patch) -> None:
    def spoilt(self: Any, pid: int, status: int) -> None:
        with contextlib.suppress(Exception):
            self.mode.reaped_callback(pid, status)

    patch.setattr(children.Children, "_foreign", spoilt)


@fails("sigchld.a_postforked_child_has_sigchld_back")
def a_forked_child_keeps_the_handler(engine: EmbeddedEngine, patch: Patch) -> None:
    postfork = EmbeddedEngine.postfork_child_noexec

    def spoilt(self: EmbeddedEngine) -> None:
        with patch.context() as kept:
            kept.setattr(children.SIGNAL, "remove", lambda engine: None)
            postfork(self)

    patch.setattr(EmbeddedEngine, "postfork_child_noexec", spoilt)


@fails("lifecycle.a_lost_connection_to_xenstored")
def nobody_is_told_of_a_lost_connection(engine: EmbeddedEngine, patch: Patch) -> None:
    patch.setattr(core.Core, "disaster", lambda self, *what, **how: None)


@fails("lifecycle.whoever_lost_xenstored_can_open_another_engine")
def engines_share_one_connection(engine: EmbeddedEngine, patch: Patch) -> None:
    kept: list[Any] = []
    connect = engine.host.connect

    def spoilt(domid: int = 0) -> Any:
        if not kept:
            kept.append(connect(domid))
        return kept[0]

    patch.setattr(engine.host, "connect", spoilt)
    parts(engine).store._connection = engine.host.connect()


@fails("lifecycle.freeing_ends_everything_and_may_be_repeated")
def an_engine_can_be_freed_only_once(engine: EmbeddedEngine, patch: Patch) -> None:
    free = engine.ctx_free

    def spoilt() -> None:
        if parts(engine).freed:
            raise ValueError("freed twice")
        free()

    patch.setattr(engine, "ctx_free", spoilt)


@fails("succession.a_succession_can_be_used_again_and_connects_to_xenstored_by_itself")
def a_successor_has_no_successors(engine: EmbeddedEngine, patch: Patch) -> None:
    succession = EmbeddedEngine.succession

    def spoilt(self: EmbeddedEngine) -> Any:
        patch.undo()
        found = succession(self)
        patch.setattr(EmbeddedEngine, "succession", lambda self: None)
        return found

    patch.setattr(EmbeddedEngine, "succession", spoilt)


@fails("succession.a_succession_can_be_used_again_and_connects_to_xenstored_by_itself")
def a_succession_connects_to_nobody(engine: EmbeddedEngine, patch: Patch) -> None:
    patch.setattr("gxl.engines.embedded.engine._Succession.xenstore_connect", lambda self: None)


@fails("callbacks.what_a_disaster_hook_raises_is_raised_by_the_call")
def what_a_disaster_hook_raises_is_forgotten(engine: EmbeddedEngine, patch: Patch) -> None:
    keep = core.Core.keep
    patch.setattr(core.Core, "keep", lambda self, error: keep(self, error) if isinstance(error, Disaster) else None)
