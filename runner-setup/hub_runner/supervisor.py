"""The service: one thread a slot, each advancing its keeper; the main thread watches, tells and sweeps."""

from __future__ import annotations

import logging
import socket
import threading
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from ci.errors import InfrastructureError
from hub_runner.cycle import Keeper
from hub_runner.report import metrics, told
from hub_runner.state import Book, lock, write_atomically

if TYPE_CHECKING:
    from hub_runner.config import Config, Slot
    from hub_runner.layout import Layout
    from hub_runner.mint import MintClient
    from hub_runner.outside import Host

log = logging.getLogger("hub-runner")

TICK = 5.0
AFTER_TROUBLE = 30.0
SWEEP_EVERY = 3600.0
REPORT_EVERY = 300.0
HUNG_AFTER = 1800.0
"""Seconds without a step after which a slot's thread no longer vouches for the service; a doctor and a stop fit in."""


class Supervisor:
    """All the slots of a host. `stop` ends it; jobs go on, and the next supervisor adopts them."""

    def __init__(
        self, config: Config, layout: Layout, *, host: Host, mint: MintClient, notify: str | None = None
    ) -> None:
        self.config, self.layout, self.host, self.mint = config, layout, host, mint
        self.books = [Book(layout.state, slot.index) for slot in config.places]
        self.ended = threading.Event()
        self.alive: dict[int, float] = {}
        self.notify = notify
        self.told: str | None = None
        self.due = {"sweep": 0.0, "report": 0.0}
        self.strangers = 0

    def run(self) -> None:
        """Until `stop`. Raises InfrastructureError when another supervisor has one of the slots."""
        with ExitStack() as locks:
            for slot in self.config.places:
                taken = lock(self.layout.run / f"slot-{slot.index}.lock", what=f"slot {slot.index}")
                locks.enter_context(taken)
            threads = [threading.Thread(target=self._keep, args=(slot,), daemon=True) for slot in self.config.places]
            for thread in threads:
                thread.start()
            self._say("READY=1")
            while not self.ended.wait(TICK):
                self._tick()
            for thread in threads:
                thread.join(TICK)

    def stop(self, *_: object) -> None:
        """Ask it to end: also a signal handler."""
        self.ended.set()

    def _keep(self, slot: Slot) -> None:
        keeper = Keeper(
            slot,
            self.config,
            host=self.host,
            mint=self.mint,
            book=self.books[slot.index],
            monotonic=time.monotonic,
        )
        while not self.ended.is_set():
            self.alive[slot.index] = time.monotonic()
            try:
                wait = keeper.advance()
            except InfrastructureError as trouble:
                log.warning("slot %d: %s", slot.index, trouble)
                wait = AFTER_TROUBLE
            except Exception:
                log.exception("slot %d: a bug in hub-runner", slot.index)
                wait = AFTER_TROUBLE
            self.ended.wait(wait)

    def _tick(self) -> None:
        now = time.monotonic()
        if all(now - seen < HUNG_AFTER for seen in self.alive.values()):
            self._say("WATCHDOG=1")
        for name, every, act in (("sweep", SWEEP_EVERY, self._sweep), ("report", REPORT_EVERY, self._report)):
            if now >= self.due[name]:
                self.due[name] = now + every
                try:
                    act()
                except InfrastructureError as trouble:
                    log.warning("%s: %s", name, trouble)
        text = metrics(self.config, self.books, strangers=self.strangers, now=time.time())
        write_atomically(self.layout.run / "metrics.prom", text)

    def _sweep(self) -> None:
        """Hold GitHub's list of runners against ours, the list first: a name is on a page before it is registered."""
        listed = self.mint.list()
        known = {book.read().runner_name for book in self.books}
        unknown = [each for each in listed if each.name not in known]
        for each in unknown:
            if not each.online:
                log.warning("%s, which no slot knows: %s", each.name, self.mint.remove(each.runner_id))
            else:
                log.error("%s is registered under this host's name, is online, and is not ours", each.name)
        self.strangers = sum(each.online for each in unknown)

    def _report(self) -> None:
        text = told(self.config, self.books)
        if self.config.github.status_issue and text != self.told:
            log.info("status issue: %s", self.mint.report(text))
            self.told = text

    def _say(self, state: str) -> None:
        """sd_notify(3): a datagram to the socket that systemd named."""
        if self.notify:
            address = "\0" + self.notify[1:] if self.notify.startswith("@") else self.notify
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as speaker:
                speaker.sendto(state.encode(), address)
