"""The words and signs for verdicts, outcomes, failure classes and changes. Not escaped yet for any format."""

from __future__ import annotations

ICONS = {"passed": "✅", "failed": "❌", "neutral": "⚠️"}
OUTCOMES = {
    "passed": "passed",
    "failed": "failed",
    "did_not_run": "did not run",
    "consequence": "skipped because an earlier test failed",
    "missing": "missing",
    "refused": "refused, as known",
}
OUTCOME_ICONS = {
    "passed": "✅",
    "failed": "❌",
    "did_not_run": "⚪",
    "consequence": "⏭️",
    "missing": "❓",
    "refused": "⛔",
}
SIGNS = {
    "passed": "✓",
    "failed": "✗",
    "neutral": "!",
    "did_not_run": "○",
    "consequence": "↷",
    "missing": "?",
    "refused": "⊘",
}
"""The same without emoji, for pages that must look the same with any font."""
CLASSES = {
    "numeric_mismatch": "numeric mismatch",
    "non_finite": "NaN or infinity",
    "missing_tensor": "missing tensor",
    "unexpected_tensor": "unexpected tensor",
    "shape_mismatch": "shape mismatch",
    "config_mismatch": "config mismatch",
    "export_incomplete": "incomplete export",
    "precision": "imprecise operation",
    "variant_did_not_run": "variant did not run",
    "unsupported": "unsupported",
    "out_of_memory": "out of memory",
    "hub_unavailable": "Hub unavailable",
    "gated": "gated model",
    "not_truncatable": "hub-tests cannot truncate this yet",
    "remote_code": "the model's own code has no sandbox to run in, or is not pinned",
    "quantized": "hub-tests does not dequantise these weights yet",
    "timeout": "timeout",
    "crash": "crash",
    "collection": "collection error",
    "environment": "machine or service problem",
    "dependency": "earlier test failed",
    "missing_result": "missing result",
    "unproven": "unproven pass",
    "interrupted": "interrupted",
    "other": "other error",
}
CHANGES = {
    "new": "newly failing",
    "known": "already failing on main",
    "different": "failing in another way than on main",
    "fixed": "fixed",
}
NOT_THE_CHANGE = "infrastructure problem, not caused by this change"
NO_ANSWER = "says nothing about this change"
