"""Conversations drawn from a seed, as a chat template gets them: roles, tools, odd texts, several parts. Pure.

The keys are those of https://huggingface.co/docs/transformers/main/chat_extras (tools and tool calls) and of
https://huggingface.co/docs/transformers/main/chat_templating_multimodal (content in parts).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

COUNT = 200
SEED = 17

Kind = Literal["plain", "system", "tools", "parts", "odd"]
KINDS: tuple[Kind, ...] = ("plain", "system", "tools", "plain", "tools", "system", "plain", "parts", "odd", "tools")
"""Ten conversations in a row have these kinds: every template renders at least the plain ones."""
TEXTS = (
    *("Hello.", "What is 2 + 2?", "Summarise this in one line, please.", "4", "Sure: here it is.", "Why?"),
    *("", " ", "\n", "  leading and trailing  ", "first line\nsecond line\n\n", "\ttab\r\nwindows line\r\n"),
    *(
        "Grüße aus Köln",
        "数学の問題",
        "مرحبا",
        "👩🏽‍🔬 e\u0301 \u200b\ufeff",
        "naïve café — “quoted”",
        "\U0001d518\U0001d52b",
    ),
    *("</s>", "<|im_end|>\n<|im_start|>system", "[INST] ignore [/INST]", "<|eot_id|>", "<bos><eos>"),
    *(
        "{{ messages }}",
        "{% raw %}{# note #}",
        "a < b && c > \"d\" 'e' \\n",
        '{"json": [1, 2.5, null]}',
        "# Title\n- item",
    ),
    "<think>\nFirst this, then that.\n</think>\n\nThe answer is 7.",
    "long " * 60,
)
TOOLS: tuple[dict[str, Any], ...] = (
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": 'Return the weather, like "sunny", of a <city>.',
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "description": "The city's name, in any script: 東京"},
                    "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
                },
                "required": ["city"],
            },
        },
    },
    {
        "type": "function",
        "function": {
            "name": "add",
            "description": "Add numbers.",
            "parameters": {
                "type": "object",
                "properties": {"values": {"type": "array", "items": {"type": "number"}}, "exact": {"type": "boolean"}},
                "required": ["values"],
            },
            "return": {"type": "number", "description": "The sum."},
        },
    },
    {"type": "function", "function": {"name": "now", "description": "", "parameters": {"type": "object"}}},
)
CALLS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("get_weather", {"city": "Zürich", "unit": "celsius"}),
    ("add", {"values": [1, 2, 30], "exact": True}),
    ("now", {}),
)
DOCUMENTS = ({"title": "Bees", "text": "They dance.\n"}, {"title": "Naïve “set”", "text": "a ∈ A"})
SWITCHES: tuple[dict[str, Any], ...] = (
    *({}, {}, {}, {"enable_thinking": False}, {"enable_thinking": True}),
    *({"documents": list(DOCUMENTS)}, {"date_string": "26 Jul 2024"}, {"tools_in_user_message": False}),
)
"""Further arguments of `apply_chat_template` that published templates read."""

KNOWN_ROLES = ("user", "assistant", "system", "tool", "developer", "ipython")
MAX_ROLES = 8
_ROLE_TEST = re.compile(r"""role['"]?\s*\]?\s*(?:==|!=|(?:not\s+)?in)\s*([^%}]{1,200})""")
_QUOTED = re.compile(r"""['"]([A-Za-z][\w-]{0,30})['"]""")


@dataclass(frozen=True)
class Conversation:
    """What one call of a chat template gets; `tools` is None without any."""

    messages: tuple[Mapping[str, Any], ...]
    tools: tuple[Mapping[str, Any], ...] | None = None
    add_generation_prompt: bool = False
    switches: Mapping[str, Any] = field(default_factory=dict)


def find_roles(templates: Iterable[str]) -> tuple[str, ...]:
    """Find the roles that templates test for, beside the usual ones: `context`, `tool_response`, …"""
    tests = (match.group(1) for template in templates for match in _ROLE_TEST.finditer(template))
    named = (name for test in tests for name in _QUOTED.findall(test))
    return tuple(name for name in dict.fromkeys(named) if name not in KNOWN_ROLES)[:MAX_ROLES]


def generate_conversations(
    count: int = COUNT, seed: int = SEED, roles: tuple[str, ...] = ()
) -> tuple[Conversation, ...]:
    """Generate conversations: the same ones for the same seed, on every machine.

    `roles` are further ones, which half of the odd conversations have.
    """
    random = Random(seed)  # noqa: S311 (no secret)
    return tuple(_generate_one(random, KINDS[index % len(KINDS)], roles) for index in range(count))


def _generate_one(random: Random, kind: Kind, roles: tuple[str, ...]) -> Conversation:
    further = kind == "odd" and roles and random.random() < 0.75
    messages = _draw_with_role(random, random.choice(roles)) if further else _GENERATORS[kind](random)
    prompt = random.random() < (0.7 if messages and messages[-1]["role"] != "assistant" else 0.3)
    tools = tuple(random.sample(TOOLS, random.randint(1, len(TOOLS)))) if kind == "tools" else None
    return Conversation(tuple(messages), tools, prompt, random.choice(SWITCHES))


def _draw_turns(random: Random) -> list[dict[str, Any]]:
    """Draw turns of user and assistant, one after the other, the user first."""
    turns = random.choice((1, 1, 2, 3, 4, 5, 6))
    return [_write_turn(random, ("user", "assistant")[index % 2]) for index in range(turns)]


def _write_turn(random: Random, role: str) -> dict[str, Any]:
    turn = {"role": role, "content": random.choice(TEXTS)}
    if role == "assistant" and random.random() < 0.2:
        turn["reasoning_content"] = random.choice(TEXTS)
    return turn


def _draw_with_system(random: Random) -> list[dict[str, Any]]:
    return [_write_turn(random, "system"), *_draw_turns(random)]


def _draw_with_calls(random: Random) -> list[dict[str, Any]]:
    """Draw, in most cases, a call of tools with its answers."""
    start = [_write_turn(random, "system")] if random.random() < 0.5 else []
    if random.random() < 0.25:
        return [*start, *_draw_turns(random)]
    calls = random.sample(CALLS, random.choice((1, 1, 2)))
    wrapped: list[dict[str, Any]] = [
        {"id": f"call{index:05d}", "type": "function", "function": {"name": name, "arguments": arguments}}
        for index, (name, arguments) in enumerate(calls)
    ]
    asked: dict[str, Any] = {
        "role": "assistant",
        "tool_calls": wrapped,
        **({"content": ""} if random.random() < 0.7 else {}),
    }
    answers = [
        {"role": "tool", "name": call["function"]["name"], "tool_call_id": call["id"], "content": random.choice(TEXTS)}
        for call in wrapped
    ]
    end = [_write_turn(random, "assistant")] if random.random() < 0.5 else []
    return [*start, _write_turn(random, "user"), asked, *answers, *end]


def _draw_with_parts(random: Random) -> list[dict[str, Any]]:
    """Draw turns whose content is a list of parts: texts and images."""
    return [{**turn, "content": _split_content(random, turn)} for turn in _draw_turns(random)]


def _split_content(random: Random, turn: Mapping[str, Any]) -> list[dict[str, Any]]:
    texts: list[dict[str, Any]] = [
        {"type": "text", "text": turn["content"]},
        {"type": "text", "text": random.choice(TEXTS)},
    ]
    images = [{"type": "image"}] if turn["role"] == "user" and random.random() < 0.5 else []
    return [*images, *texts[: random.choice((1, 2))]]


def _draw_with_role(random: Random, role: str) -> list[dict[str, Any]]:
    """Draw turns with one of another role: before them, after them, or after the first."""
    turns, other = _draw_turns(random), _write_turn(random, role)
    at = random.choice((0, 1, len(turns)))
    return [*turns[:at], other, *turns[at:]]


def _draw_odd(random: Random) -> list[dict[str, Any]]:
    """Draw what many templates refuse: another order, another role, or nothing at all."""
    turns = _draw_turns(random)
    orders: tuple[list[dict[str, Any]], ...] = (
        [],
        [_write_turn(random, "assistant"), *turns],
        [_write_turn(random, "user"), *turns],
        [*turns, _write_turn(random, "system")],
        [_write_turn(random, "developer"), *turns],
        [*turns, _write_turn(random, "ipython")],
        [_write_turn(random, "system")],
    )
    return random.choice(orders)


_GENERATORS: Mapping[Kind, Callable[[Random], list[dict[str, Any]]]] = {
    "plain": _draw_turns,
    "system": _draw_with_system,
    "tools": _draw_with_calls,
    "parts": _draw_with_parts,
    "odd": _draw_odd,
}
