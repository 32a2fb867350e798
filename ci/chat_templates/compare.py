"""Holds a chat template that was rewritten against the original: the same text for each conversation, or both refuse.

Two engines judge by themselves, so that a mistake of one cannot hide a difference: Jinja2 as transformers runs it, and
@huggingface/jinja. Their texts are not compared with each other: JavaScript writes JSON and numbers in its own way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ci.chat_templates.conversations import find_roles, generate_conversations
from ci.chat_templates.engines import find_engines
from ci.chat_templates.render import SECONDS, Template, render_templates
from ci.chat_templates.template_files import pair_templates, read_special_tokens

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ci.chat_templates.conversations import Conversation
    from ci.chat_templates.engines import Engine
    from ci.chat_templates.render import EngineRun, Rendering
    from ci.companion_files import CompanionDirectory
    from ci.subjects.sandbox import Isolation

BEFORE, AFTER = 0, 1
MIN_RENDERED = 20
"""An engine that renders fewer conversations with the original template has not judged it."""
CONTEXT = 24
"""Characters that are shown before and after a difference."""


@dataclass(frozen=True)
class EngineJudgement:
    """What one engine says of two templates. `problem` says why it says nothing."""

    engine: str
    conversations: int = 0
    rendered: int = 0
    refused: int = 0
    difference: str = ""
    problem: str = ""

    @property
    def equal(self) -> bool:
        """Return whether the engine judged, and found no difference."""
        return not self.problem and not self.difference

    def __str__(self) -> str:
        if self.problem:
            return f"{self.engine} did not judge: {self.problem}"
        if self.difference:
            return f"{self.engine}: {self.difference}"
        refused = f", {self.refused} refused by both" if self.refused else ""
        return f"{self.engine}: equal on {self.conversations} conversations ({self.rendered} rendered{refused})"


@dataclass(frozen=True)
class TemplateJudgement:
    """What the engines say of a template that was rewritten."""

    engines: tuple[EngineJudgement, ...]

    @property
    def held(self) -> bool:
        """Return whether at least two engines found both templates equal, and none a difference."""
        return sum(one.equal for one in self.engines) >= 2 and not self.differs

    @property
    def differs(self) -> bool:
        """Return whether an engine found a difference."""
        return any(one.difference for one in self.engines)

    def __str__(self) -> str:
        equal = [one for one in self.engines if one.equal]
        alone = "only one engine judged; " if len(equal) == 1 and not self.differs else ""
        return alone + "; ".join(map(str, self.engines))


def judge_rewritten_templates(
    original: CompanionDirectory, exported: CompanionDirectory, isolation: Isolation
) -> dict[str, TemplateJudgement]:
    """Judge, by name, each chat template whose text the export rewrote.

    Each side gets the special tokens of its own tokenizer; an export without one, those of the original.
    """
    tokens = read_special_tokens(original)
    own = read_special_tokens(exported) or tokens
    return {
        name: compare_templates(Template(pair.before.text, tokens), Template(pair.after.text, own), isolation)
        for name, pair in pair_templates(original, exported).items()
        if pair.before and pair.after and pair.is_rewritten
    }


def compare_templates(
    before: Template,
    after: Template,
    isolation: Isolation,
    *,
    engines: Sequence[Engine] | None = None,
    conversations: Sequence[Conversation] | None = None,
    seconds: float = SECONDS,
) -> TemplateJudgement:
    """Compare two templates by each engine that is here.

    The conversations have the roles that the templates test for.
    """
    roles = find_roles((before.text, after.text))
    asked = generate_conversations(roles=roles) if conversations is None else conversations
    runs = (
        render_templates(engine, (before, after), asked, isolation, seconds=seconds)
        for engine in (find_engines() if engines is None else engines)
    )
    return TemplateJudgement(tuple(judge_run(run, len(asked)) for run in runs))


def judge_run(run: EngineRun, conversations: int) -> EngineJudgement:
    """Judge what an engine rendered.

    A run that stopped early is judged by what it rendered before.
    """
    pairs = _pair_renderings(run.renderings)
    rendered = sum(one.text is not None and other.text is not None for one, other in pairs)
    refused = sum(one.text is None and other.text is None for one, other in pairs)
    difference = next((said for one, other in pairs if (said := _describe_difference(one, other))), "")
    problem = "" if difference else run.problem and f"{run.problem}{_describe_hang(run)}"
    if not run.problem and (known := sum(one.text is not None for one, _ in pairs)) < MIN_RENDERED:
        said = next((one.refusal for one, _ in pairs if one.text is None), "")
        difference, problem = "", f"the original renders {known} of {conversations} conversations in it ({said[:120]})"
    return EngineJudgement(run.engine, conversations, rendered, refused, difference, problem)


def _pair_renderings(renderings: Sequence[Rendering]) -> list[tuple[Rendering, Rendering]]:
    sides: tuple[dict[int, Rendering], dict[int, Rendering]] = ({}, {})
    for one in renderings:
        if one.side in (BEFORE, AFTER):
            sides[one.side][one.index] = one
    return [(sides[BEFORE][index], sides[AFTER][index]) for index in sorted({*sides[BEFORE]} & {*sides[AFTER]})]


def _describe_hang(run: EngineRun) -> str:
    """Say which template was being rendered when the engine stopped."""
    last = run.renderings[-1] if run.renderings else None
    if last is None:
        return ""
    exported = last.side == BEFORE
    side = "the exported template" if exported else "the original template"
    return f", while {side} rendered conversation {last.index if exported else last.index + 1}"


def _describe_difference(one: Rendering, other: Rendering) -> str:
    """Return how two renderings of a conversation differ, "" where they do not."""
    if one.text == other.text:
        return ""
    where = f"conversation {one.index}"
    if one.text is None or other.text is None:
        who, why = ("the original", one.refusal) if one.text is None else ("the export", other.refusal)
        return f"{where}: only {who} refuses ({why[:120]})"
    at = next((i for i, (a, b) in enumerate(zip(one.text, other.text, strict=False)) if a != b), None)
    at = min(len(one.text), len(other.text)) if at is None else at
    shown = [repr(text[max(0, at - CONTEXT) : at + CONTEXT]) for text in (one.text, other.text)]
    return f"{where}, character {at}: {shown[0]} became {shown[1]}"
