"""Generated conversations: the same for a seed, and of all kinds that a template may branch on."""

from __future__ import annotations

import json
from dataclasses import asdict

from ci.chat_templates.conversations import COUNT, MAX_ROLES, find_roles, generate_conversations


def test_a_seed_gives_the_same_conversations() -> None:
    assert generate_conversations() == generate_conversations()
    assert generate_conversations(seed=1) != generate_conversations(seed=2)


def test_they_reach_every_branch_that_templates_have() -> None:
    all_of_them = generate_conversations()
    assert len(all_of_them) == COUNT == 200
    roles = [tuple(message["role"] for message in one.messages) for one in all_of_them]
    contents = [message.get("content") for one in all_of_them for message in one.messages]
    counts = {
        "plain": sum("system" not in names and set(names) <= {"user", "assistant"} for names in roles),
        "system first": sum(names[:1] == ("system",) for names in roles),
        "tools": sum(one.tools is not None for one in all_of_them),
        "several tools": sum(len(one.tools or ()) > 1 for one in all_of_them),
        "tool calls": sum(any("tool_calls" in message for message in one.messages) for one in all_of_them),
        "tool answers": sum("tool" in names for names in roles),
        "parts": sum(isinstance(content, list) for content in contents),
        "no content": contents.count(None),
        "empty content": contents.count(""),
        "white space": sum(isinstance(c, str) and c != c.strip() for c in contents),
        "beyond Latin": sum(isinstance(c, str) and not c.isascii() for c in contents),
        "prompt": sum(one.add_generation_prompt for one in all_of_them),
        "no prompt": sum(not one.add_generation_prompt for one in all_of_them),
        "switches": sum(bool(one.switches) for one in all_of_them),
        "another order": sum(names[:1] == ("assistant",) or names[-1:] == ("system",) for names in roles),
    }
    assert {name: number for name, number in counts.items() if number < 3} == {}
    assert counts["plain"] >= 60


def test_they_are_json() -> None:
    for one in generate_conversations():
        assert json.loads(json.dumps(asdict(one)))["tools"] == (list(one.tools) if one.tools else None)


def test_the_roles_that_a_template_tests_for_are_found_and_used() -> None:
    template = """{% if messages[0]['role'] == 'context' %}{% elif message.role in ["tool_response", 'user'] %}
    {% elif message['role'] not in ('observation',) %}{{ '<|role|>' + message['role'] + '== "x"' }}{% endif %}"""
    assert find_roles([template, template]) == ("context", "tool_response", "observation")
    assert len(find_roles([f"{{% if m.role == 'r{i}' %}}" for i in range(50)])) == MAX_ROLES
    asked = generate_conversations(roles=("context", "tool_response"))
    used = [{message["role"] for message in one.messages} for one in asked]
    assert min(sum(role in roles for roles in used) for role in ("context", "tool_response")) >= 4
