"""`hub-tests conclude`: the last job of a workflow. Green only if every job it needs really succeeded. Pure."""

from __future__ import annotations

import json

from ci.errors import HubTestsError, RequestError


class NotGreenError(HubTestsError):
    """A job failed, was cancelled, or was skipped without leave: exit code 1."""

    exit_code = 1


def conclude(needs: str, may_skip: frozenset[str]) -> dict[str, str]:
    """Each job's result out of `toJSON(needs)`. Raises NotGreenError unless all succeeded or were skipped with leave.

    Actions counts a skipped job as passed: a condition that is wrong, or a failure further up, would read as green.
    """
    try:
        plain = json.loads(needs)
        results = {str(job): str(facts["result"]) for job, facts in plain.items()}
    except (ValueError, TypeError, KeyError, AttributeError):
        raise RequestError("NEEDS: expected toJSON(needs)") from None
    if not results:
        raise RequestError("NEEDS: there is no job to conclude from")
    if unknown := sorted(may_skip - set(results)):
        raise RequestError(f"--may-skip {unknown[0]}: no such job among {', '.join(results)}")
    bad = [job for job, result in results.items() if not _good(job, result, may_skip)]
    if bad:
        raise NotGreenError("; ".join(f"job '{job}' ended as {results[job]}" for job in bad))
    return results


def _good(job: str, result: str, may_skip: frozenset[str]) -> bool:
    return result == "success" or (result == "skipped" and job in may_skip)
