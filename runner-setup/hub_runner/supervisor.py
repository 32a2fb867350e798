"""The supervisor service. One thread advances each slot; the main thread writes metrics and cleans up at GitHub."""

from __future__ import annotations

import logging
import socket
import threading
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from ci.errors import InfrastructureError
from hub_runner.files import acquire_lock, write_atomically
from hub_runner.slot_state import SlotStateFile
from hub_runner.slot_status import format_issue, format_metrics
from hub_runner.state_machine import SlotStateMachine

if TYPE_CHECKING:
    from hub_runner.config import Config, Slot
    from hub_runner.interfaces import Host
    from hub_runner.layout import Layout
    from hub_runner.registrar import RegistrarClient

log = logging.getLogger("hub-runner")

TICK = 5.0
WAIT_AFTER_ERROR = 30.0
LIST_EVERY = 3600.0
ISSUE_EVERY = 300.0
HUNG_AFTER = 1800.0
"""Seconds. When a slot's thread did no step for so long, the watchdog of systemd is no longer answered. A doctor's run
and a stop together take less."""


class Supervisor:
    """All the slots of a host. `stop` ends the supervisor; jobs go on, and the next supervisor takes them over."""

    def __init__(
        self, config: Config, layout: Layout, *, host: Host, registrar: RegistrarClient, notify: str | None = None
    ) -> None:
        self.config, self.layout, self.host, self.registrar = config, layout, host, registrar
        self.state_files = [SlotStateFile(layout.state, slot.index) for slot in config.resolved_slots]
        self.ended = threading.Event()
        self.last_step: dict[int, float] = {}
        self.notify = notify
        self.issue_text: str | None = None
        self.due = {"runner list": 0.0, "issue": 0.0}
        self.unknown_runners = 0

    def run(self) -> None:
        """Run until `stop`. Raises InfrastructureError when another supervisor has one of the slots."""
        with ExitStack() as locks:
            for slot in self.config.resolved_slots:
                path = self.layout.run / f"slot-{slot.index}.lock"
                locks.enter_context(acquire_lock(path, what=f"slot {slot.index}"))
            threads = [
                threading.Thread(target=self._run_slot, args=(slot,), daemon=True)
                for slot in self.config.resolved_slots
            ]
            for thread in threads:
                thread.start()
            self._notify_systemd("READY=1")
            while not self.ended.wait(TICK):
                self._tick()
            for thread in threads:
                thread.join(TICK)

    def stop(self, *_: object) -> None:
        """Ask the supervisor to end; usable as a signal handler."""
        self.ended.set()

    def _run_slot(self, slot: Slot) -> None:
        state_machine = SlotStateMachine(
            slot,
            self.config,
            host=self.host,
            registrar=self.registrar,
            state_file=self.state_files[slot.index],
            monotonic=time.monotonic,
        )
        while not self.ended.is_set():
            self.last_step[slot.index] = time.monotonic()
            try:
                wait = state_machine.advance()
            except InfrastructureError as failure:
                log.warning("slot %d: %s", slot.index, failure)
                wait = WAIT_AFTER_ERROR
            except Exception:
                log.exception("slot %d: a bug in hub-runner", slot.index)
                wait = WAIT_AFTER_ERROR
            self.ended.wait(wait)

    def _tick(self) -> None:
        now = time.monotonic()
        if all(now - step < HUNG_AFTER for step in self.last_step.values()):
            self._notify_systemd("WATCHDOG=1")
        for name, every, act in (
            ("runner list", LIST_EVERY, self._remove_unknown_runners),
            ("issue", ISSUE_EVERY, self._update_issue),
        ):
            if now >= self.due[name]:
                self.due[name] = now + every
                try:
                    act()
                except InfrastructureError as failure:
                    log.warning("%s: %s", name, failure)
        text = format_metrics(self.config, self.state_files, unknown_runners=self.unknown_runners, now=time.time())
        write_atomically(self.layout.run / "metrics.prom", text)

    def _remove_unknown_runners(self) -> None:
        """Remove offline runners that no slot knows; count and log the online ones.

        GitHub's list is read first: a slot writes a runner's name to its state file before it registers the runner.
        """
        listed = self.registrar.list_runners()
        known = {state_file.read().runner_name for state_file in self.state_files}
        unknown = [runner for runner in listed if runner.name not in known]
        for runner in unknown:
            if not runner.online:
                answer = self.registrar.remove_runner(runner.runner_id)
                log.warning("no slot knows the runner %s: %s", runner.name, answer)
            else:
                log.error("no slot knows the runner %s, which is online under this host's name", runner.name)
        self.unknown_runners = sum(runner.online for runner in unknown)

    def _update_issue(self) -> None:
        text = format_issue(self.config, self.state_files)
        if self.config.github.status_issue and text != self.issue_text:
            log.info("status issue: %s", self.registrar.update_issue(text))
            self.issue_text = text

    def _notify_systemd(self, state: str) -> None:
        """Send a datagram to the socket that systemd named: sd_notify(3)."""
        if self.notify:
            address = "\0" + self.notify[1:] if self.notify.startswith("@") else self.notify
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.sendto(state.encode(), address)
