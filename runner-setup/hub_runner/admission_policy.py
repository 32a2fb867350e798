"""The rules that the admission hook reads, on the host and on the cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ci.records import to_dict

if TYPE_CHECKING:
    from hub_runner.config import Config


def build_policy(config: Config) -> dict[str, Any]:
    """Return the [admission] table with the repository or organization and the store's writers."""
    owner = {"repository": config.github.repository, "organization": config.github.organization}
    writers = [slot.uid for slot in config.resolved_slots if slot.writes_store]
    fillers = [slot.uid for slot in config.resolved_slots if slot.fills_compile_cache]
    return {**to_dict(config.admission), **owner, "store_uids": writers, "nightly_uids": fillers}
