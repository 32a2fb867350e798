"""Which tokens of a document count, and how images stand in it, where there is a Fast-LLM."""

from __future__ import annotations

from ci.subjects.fast_llm.documents import list_masked_spans


def test_spans_begin_at_the_predicted_token() -> None:
    assert list_masked_spans([1, 0, 1, 0, 0]) == [(2, 3), (4, 5), (5, 6)]
    assert list_masked_spans([1, 1]) == []
