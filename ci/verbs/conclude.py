"""`hub-tests conclude`: the last job of a workflow. It passes only if every job that it needs really succeeded."""

from __future__ import annotations

import json

from ci.errors import HubTestsError, RequestError


class JobsFailedError(HubTestsError):
    """A job failed, was cancelled, or was skipped although it may not be: exit code 1."""

    exit_code = 1


def check_jobs(needs: str, may_skip: frozenset[str], may_fail: frozenset[str] = frozenset()) -> dict[str, str]:
    """Return each job's result from `toJSON(needs)`.

    Raises JobsFailedError unless every job succeeded, or was skipped and is in `may_skip`; what a job of `may_fail`
    finds is told elsewhere and blocks nothing. Actions itself counts a
    skipped job as passed: then a wrong condition, or a failure in an earlier job, would look like success.
    """
    try:
        plain = json.loads(needs)
        results = {str(job): str(facts["result"]) for job, facts in plain.items()}
    except (ValueError, TypeError, KeyError, AttributeError):
        raise RequestError("NEEDS: expected toJSON(needs)") from None
    if not results:
        raise RequestError("NEEDS: it names no job, so there is nothing to conclude")
    if unknown := sorted(may_skip - set(results)):
        raise RequestError(f"--may-skip {unknown[0]}: no such job among {', '.join(results)}")
    if unknown := sorted(may_fail - set(results)):
        raise RequestError(f"--may-fail {unknown[0]}: no such job among {', '.join(results)}")
    judged = {job: result for job, result in results.items() if job not in may_fail or result == "skipped"}
    failed = [job for job, result in judged.items() if not _is_good(job, result, may_skip)]
    if failed:
        raise JobsFailedError("; ".join(f"job '{job}' ended as {results[job]}" for job in failed))
    return results


def _is_good(job: str, result: str, may_skip: frozenset[str]) -> bool:
    return result == "success" or (result == "skipped" and job in may_skip)
