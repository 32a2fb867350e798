"""The interfaces: the real host and the real registrar fit them, and no log shows a credential."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hub_runner.interfaces import JitRunner, UnitStatus
from hub_runner.registrar import RegistrarClient
from hub_runner.systemd import SystemdHost

if TYPE_CHECKING:
    from hub_runner.interfaces import Host, Registrar
    from hub_runner.layout import Layout


def test_a_runners_credential_is_not_in_its_text() -> None:
    assert "secret" not in repr(JitRunner(7, "secret"))


def test_the_real_ones_have_every_method(layout: Layout) -> None:
    host: Host = SystemdHost(layout)  # mypy holds the signatures against the protocols
    registrar: Registrar = RegistrarClient(layout.socket)
    assert all(
        hasattr(host, name) for name in ("diagnose", "read_unit", "start_runner", "stop_runner", "find_leftovers")
    )
    assert all(hasattr(registrar, name) for name in ("register", "find_runner", "remove_runner"))


def test_a_unit_that_nobody_asked_about_ended_well() -> None:
    assert UnitStatus(False) == UnitStatus(False, "success", 0)
