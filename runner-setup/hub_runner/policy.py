"""What the admission hook goes by, on the host and on the cluster alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ci.records import to_dict

if TYPE_CHECKING:
    from hub_runner.config import Config


def policy(config: Config) -> dict[str, Any]:
    """The [admission] table, whose repositories are served, and which users may write the store."""
    where = {"repository": config.github.repository, "organization": config.github.organization}
    writers = [slot.uid for slot in config.places if slot.writes_store]
    return {**to_dict(config.admission), **where, "store_uids": writers}
