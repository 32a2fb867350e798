"""Chat templates as published ones are built, rewritten ones that say the same, and planted mistakes."""

from __future__ import annotations

TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}

CHATML = """\
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages and messages[0]['role'] == 'system' %}
        {{- messages[0]['content'] }}
    {%- else %}
        {{- 'You are a helpful assistant.' }}
    {%- endif %}
    {{- "\\n\\n# Tools\\n\\n<tools>" }}
    {%- for tool in tools %}
        {{- "\\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\\n</tools><|im_end|>\\n" }}
{%- elif messages and messages[0]['role'] == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == "user" or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {{- '<|im_start|>assistant' }}
        {%- if message.content %}
            {{- '\\n' + message.content }}
        {%- endif %}
        {%- for call in message.tool_calls or [] %}
            {{- '\\n<tool_call>\\n{"name": "' }}
            {{- call.function.name }}
            {{- '", "arguments": ' }}
            {{- call.function.arguments | tojson }}
            {{- '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == "tool" %}
        {{- '<|im_start|>user\\n<tool_response>\\n' + message.content + '\\n</tool_response><|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
"""

INSTRUCT = """\
{{ bos_token }}{% for message in messages %}
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{ raise_exception('Roles must alternate: user, assistant, user, …') }}
{% endif %}
{% if message['role'] == 'user' %}
{{ '[INST] ' + message['content'] | trim + ' [/INST]' }}
{% elif message['role'] == 'assistant' %}
{{ ' ' + message['content'] + eos_token }}
{% else %}
{{ raise_exception('Only user and assistant roles are known') }}
{% endif %}
{% endfor %}
{% if add_generation_prompt %}{{ ' ' }}{% endif %}
"""

DATED = """\
{{ bos_token }}{{ strftime_now('%d %B %Y, %H:%M') }}
{%- for message in messages %}{{ message.role }}: {% generation %}{{ message.content }}{% endgeneration %}
{% endfor %}
"""

OWN_ROLE = """\
{%- for document in documents or [] %}{{ document.title + ': ' + document.text }}{% endfor %}
{%- for message in messages %}
    {%- if message.role == 'retrieved' %}
        {{- 'Context: ' + message.content + '\\n' }}
    {%- else %}
        {{- message.role + ': ' + message.content + eos_token }}
    {%- endif %}
{%- endfor %}
"""

REWRITTEN = {
    "chatml": (
        CHATML,
        CHATML.replace("'<|im_end|>' + '\\n'", "'<|im_end|>\\n'")
        .replace("message.role", "message['role']")
        .replace("    ", "")
        .replace("messages[0]", "messages[0 + 0]")
        + "{# written anew #}",
    ),
    "instruct": (INSTRUCT, INSTRUCT.replace("{% endif %}\n", "{%- endif %}\n").replace("\n{{ '", "\n{{- '")),
    "dated": (DATED, DATED.replace("%d %B %Y, %H:%M", "%d %B %Y, ' + '%H:%M")),
}
"""Original and rewritten template that say the same."""

PLANTED = {
    "a newline is lost": (CHATML, CHATML.replace("+ '<|im_end|>' + '\\n'", "+ '<|im_end|>'")),
    "the system message is dropped": (
        CHATML,
        CHATML.replace("{%- elif messages and messages[0]['role'] == 'system' %}", "{%- elif false %}"),
    ),
    "another end of text": (INSTRUCT, INSTRUCT.replace("+ eos_token", "+ '<|endoftext|>'")),
    "whitespace control is lost": (INSTRUCT, INSTRUCT.replace("{% if message['role']", "  x{%+ if message['role']")),
    "the generation prompt is lost": (CHATML, CHATML.replace("{%- if add_generation_prompt %}", "{%- if false %}")),
    "the generation prompt is always there": (
        CHATML,
        CHATML.replace("{%- if add_generation_prompt %}", "{%- if true %}"),
    ),
    "tools are dropped": (CHATML, CHATML.replace("{%- if tools %}", "{%- if false %}")),
    "one tool of several": (CHATML, CHATML.replace("for tool in tools", "for tool in tools[:1]")),
    "tool calls are dropped": (CHATML, CHATML.replace("message.tool_calls or []", "[]")),
    "arguments are not JSON": (CHATML, CHATML.replace("call.function.arguments | tojson", "call.function.arguments")),
    "the user's text is trimmed": (CHATML, CHATML.replace("+ message.content +", "+ message.content | trim +")),
    "the begin of text is lost": (INSTRUCT, INSTRUCT.replace("{{ bos_token }}", "")),
    "it refuses no wrong order": (INSTRUCT, INSTRUCT.replace("(loop.index0 % 2 == 0)", "(message['role'] == 'user')")),
    "it refuses everything": (CHATML, "{{ raise_exception('no') }}" + CHATML),
    "a switch is not read": (CHATML, CHATML.replace("enable_thinking is false", "false")),
    "a role of its own": (
        OWN_ROLE,
        OWN_ROLE.replace("'Context: ' + message.content + '\\n'", "'Context: ' + message.content"),
    ),
    "documents are dropped": (OWN_ROLE, OWN_ROLE.replace("in documents or []", "in []")),
    "it does not compile": (CHATML, CHATML.replace("{%- endfor %}", "", 1)),
}
"""Original and export, in which one mistake was planted."""
