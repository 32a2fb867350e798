r"""Replace everything that looks like a credential by `[redacted]`.

The kinds and their shapes are facts of gitleaks' rules (config/gitleaks.toml of https://github.com/gitleaks/gitleaks,
222 rules in July 2026), with the providers' own words where they differ or are newer:

    GitHub        https://github.blog/changelog/2026-05-15-github-app-installation-tokens-per-request-override-header/
    Azure         https://github.com/microsoft/security-utilities (identifiable keys carry a marker after 76, 52 or 42
                  characters; https://learn.microsoft.com/purview/sit-defn-azure-storage-account-key-generic)
    W&B           https://docs.wandb.ai/models/ref/cli/wandb-login

The expressions are ours, because a scanner of repositories answers another question. It asks for exact lengths and word
boundaries; here a token may be cut, and may follow `\n`, `%3D` or `_` directly. detect-secrets works line by line with
a plugin for each kind, and reports a place in a file: it takes milliseconds for a line and knows fewer kinds.

Every expression takes time proportional to the text: it begins with a literal or a set of characters, and either what
follows cannot fail after an unbounded repetition, or a function looks at the longest run of characters once.
"""

from __future__ import annotations

import itertools
import re
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

REDACTED = "[redacted]"

_AFTER_ESCAPE = (r"\\[nrt]", "%[0-9A-Fa-f]{2}", r"\\x[0-9a-f]{2}", r"\\u[0-9a-f]{4}")


def _begin_word(first: str) -> str:
    r"""Write an expression for `first` where a word begins, also after `\n` or `%3D`."""
    return f"{first}(?:(?<![A-Za-z0-9]{first})" + "".join(f"|(?<={escape}{first})" for escape in _AFTER_ESCAPE) + ")"


_PREFIXED = {
    # GitHub: OAuth, App and user tokens; since April 2026 `ghs_`, the App's number, and a JSON web token
    "ghp_ gho_ ghu_ ghs_ ghr_": r"gh[pousr]_(?:[0-9]{1,20}_)?[A-Za-z0-9]{16}[A-Za-z0-9_.-]*",
    "github_pat_": "github_pat_[A-Za-z0-9_]{16,}",
    "v1.": r"v1\.[0-9a-f]{40}",
    "hf_": r"hf_(?:[A-Za-z0-9]{16,}|(?:oauth|jwt)_[A-Za-z0-9._-]{16,})",  # Hugging Face
    "api_org_": "api_org_[A-Za-z0-9]{16,}",
    "glpat- glptt- glrt- gldt- glft- glimt- glagent- gloas- glsoat- glcbt- glffct-": (
        "gl(?:pat|ptt|rt|dt|ft|imt|agent|oas|soat|cbt|ffct)-[A-Za-z0-9_.-]{16,}"  # GitLab
    ),
    "GR1348941": "GR1348941[A-Za-z0-9_-]{16,}",
    "AKIA ASIA ABIA ACCA AROA AIDA A3T": "A(?:KIA|SIA|BIA|CCA|ROA|IDA|3T[A-Z0-9])[A-Z0-9]{12,}",  # AWS
    "ABSK": "ABSK[A-Za-z0-9+/]{40,}={0,2}",
    "bedrock-api-key-": "bedrock-api-key-[A-Za-z0-9+/]{16,}={0,2}",
    "AIza": "AIza[A-Za-z0-9_-]{30,}",  # Google
    "ya29.": r"ya29\.[A-Za-z0-9_.-]{16,}",
    "GOCSPX-": "GOCSPX-[A-Za-z0-9_-]{16,}",
    "1//0": "1//0[A-Za-z0-9_-]{20,}",
    "k_live_ k_test_ k_prod_": (  # Stripe
        _begin_word("[sr]") + "k_(?:live|test|prod)_(?=[A-Za-z]{0,64}[0-9])[A-Za-z0-9]{10,}"
    ),
    "whsec_": "whsec_[A-Za-z0-9+/]{16,}={0,2}",
    "dckr_": "dckr_[po]at_[A-Za-z0-9_-]{16,}",  # Docker
    "xox": r"xox[a-z](?:\.xox[a-z])?-[A-Za-z0-9-]{10,}",  # Slack
    "xapp-": "xapp-[0-9]-[A-Za-z0-9-]{10,}",
    "hooks.slack.com": r"hooks\.slack\.com/[a-z]{4,12}/[A-Za-z0-9+/_-]{16,}",
    "/api/webhooks/": "/api/webhooks/[0-9]{1,24}/[A-Za-z0-9_-]{16,}",  # Discord
    "npm_": "npm_[A-Za-z0-9]{30,}",
    "pypi-AgE": "pypi-AgE[A-Za-z0-9_-]{16,}",
    "wandb_v1_": "wandb_v1_[A-Za-z0-9_-]{16,}",  # Weights & Biases, then keys of its own servers
    "local-": "local-[0-9a-f]{40}",
    "sk-ant- sk-proj- sk-svcacct- sk-admin- sk-or-": "sk-(?:ant|proj|svcacct|admin|or)-[A-Za-z0-9_-]{16,}",
    "sk-": _begin_word("s") + "k-[A-Za-z0-9]{20,}",  # Anthropic and OpenRouter above, OpenAI
    "nvapi-": "nvapi-[A-Za-z0-9_-]{30,}",  # NVIDIA
    "gsk_": "gsk_[A-Za-z0-9]{40,}",  # Groq
    "xai-": "xai-[A-Za-z0-9]{60,}",
    "pplx-": "pplx-[A-Za-z0-9]{40,}",
    "r8_": _begin_word("r") + "8_[A-Za-z0-9]{37}",  # Replicate
    "dapi": "dapi[0-9a-f]{32}",  # Databricks
    "SG.": r"SG\.[A-Za-z0-9_-]{16,64}\.[A-Za-z0-9_-]{16,}",  # SendGrid
    "hvs. hvb.": r"hv[sb]\.[A-Za-z0-9_-]{24,}",  # Vault
    "doo_v1_ dop_v1_ dor_v1_": "do[opr]_v1_[0-9a-f]{64}",  # DigitalOcean
    "glc_ glsa_": "gl(?:c|sa)_[A-Za-z0-9+/_]{32,}={0,2}",  # Grafana
    "sntrys_ sntryu_": "sntry[su]_[A-Za-z0-9+/=_]{40,}",  # Sentry
    "shpat_ shpca_ shppa_ shpss_": "shp(?:at|ca|pa|ss)_[A-Fa-f0-9]{32}",  # Shopify
    "AGE-SECRET-KEY-1": "AGE-SECRET-KEY-1[A-Z0-9]{40,}",
    "ATATT3": "ATATT3[A-Za-z0-9_=-]{60,}",  # Atlassian
}
"""Tokens that begin with their kind, by the literals of which one is in every such token."""

_PRIVATE_KEY = re.compile(
    r"-----BEGIN[A-Z0-9 _-]{0,60}PRIVATE KEY(?: BLOCK)?-----(?s:.*?)(?:PRIVATE KEY(?: BLOCK)?-----|\Z)"
)
_PRIVATE_KEY_END = re.compile(r"-----END[A-Z0-9 _-]{0,60}PRIVATE KEY(?: BLOCK)?-----")
_PRIVATE_KEY_CHARS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=\\ \t\r\n"
_PRIVATE_KEY_LENGTH = 16_384

_WORD = re.compile(r"(?<![A-Za-z0-9_.-])[A-Za-z0-9_.-]{20,}+")
_BASE64 = re.compile(r"(?<![A-Za-z0-9+/])[A-Za-z0-9+/]{44,}+={0,2}")
_AZURE_MARKER = re.compile(r"JQQJ9[9DH]|\+(?:ASt|ASb|AEh|AIoT|ACR)|ACDb|AzSe|AzFu|AzCa")
_AZURE_CLIENT_SECRET = re.compile(r"[A-Za-z0-9_~.-]{3}[0-9]Q~[A-Za-z0-9_~.-]{20,40}")

_NAMED = re.compile(  # in text in lower case
    r"""(?x)
    (?: token | secret | session(?:[-_]?id)? | shared[-_]?key | signing[-_]?key | storage[-_]?key | subscription[-_]?key
    | passw(?:or)?d | passphrase | pwd | private[-_]?key
    | api[-_]?key | access[-_]?key | account[-_]?key | auth(?:[-_]?key)? | credential | jwt )
    s?(?:[-_]?(?:key|id|value|string|base64|b64|[0-9]{1,2}))?
    (?P<separator>\\{0,2}["'`\]]{0,2}(?:\s{0,4}(?:=>|[:=]=?|%3[ad]|\\u003[ad]|[>,])\s{0,4}|[ ])\\{0,2}b?["'`]?)
    (?P<value>(?=[a-z0-9/+_.~%-]{16})(?:[a-z0-9/+_.~-]++|%2[bf])++={0,2})
    """
)
_PASSWORD = re.compile(
    r"""(?x)
    (?P<before>[pP](?i:assw(?:or)?d|assphrase|wd)\\{0,2}["'`\]]{0,2}\s{0,4}
    (?P<separator>=>|[:=]=?|%3[aAdD]|\\u003[aAdD])\s{0,4}\\{0,2}b?(?P<quote>["'`]?))
    (?P<value>[^\s"'`,;&<>()\[\]{}\\]{4,256}+)
    """
)
_NO_PASSWORD = re.compile(r"(?i)none|null|true|false|required|files|\*+|x+|\.+|[$%].*")
_AUTHORIZATION = re.compile(
    r"""(?x)
    (?P<before>[aA](?i:uthorization)\\{0,2}["']?\s{0,4}(?:[:=]|%3[aAdD]|,)\s{0,4}\\{0,2}b?["']?
        (?:(?i:basic|bearer|token|digest|negotiate|apikey|aws4-hmac-sha256)(?:[ ]{1,4}|%20|\+)(?P<scheme>))?)
    (?(scheme)[^"'\r\n<>\\]{4,}+|[^\s"',;<>\\]{16,}+)
    """
)
_COOKIE = re.compile(
    r"""(?P<before>[cC](?i:ookie)\\{0,2}["']?\s{0,4}[:=]\s{0,4}\\{0,2}["']?)(?=[^\s=]{1,128}=)[^"'\r\n\\]{4,}+"""
)
_SCHEME = re.compile(r"(?P<before>[bB](?i:earer|asic)(?:[ ]|%20|\+))(?P<value>[A-Za-z0-9._~+/-]{16,}+={0,2})")
_URL_USER = re.compile(r"""(?<=://)[^\s/?\#"'<>]{1,4096}@""")
_URL_USER_ENCODED = re.compile(r"""(?P<before>%3[Aa]%2[Ff]%2[Ff])(?:(?!%2[Ff]|%3[Ff]|%40)[^\s/?\#"'<>&]){1,4096}+%40""")
_SIGNED = re.compile(
    r"""(?x)
    (?P<before>(?:[xX]-(?i:(?:amz|goog)-(?:signature|credential|security-token))(?P<always>)
        |[sS](?i:ig(?:nature)?) | [kK](?i:ey-pair-id) | [pP](?i:olicy))(?:=|%3[dD]))
    (?P<value>[^\s&"'<>\\]{8,}+)
    """
)

MAX_PASSES = 4
"""A redacted credential is an edge at which another one, written directly after it, can be recognized."""
_MIN_DIFFERENT = 7
"""Different characters of a value: 16 random hexadecimal digits have as many in 999 of 1000 cases."""
_MIN_WORD = 15
"""The shortest credential of one word: a token of Slack. Values after a name have at least 16 characters."""
_IN_WORD = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.+/~%-")
_SEPARATORS = {code: " " for code in range(128) if chr(code) not in _IN_WORD}
_LETTER, _DIGIT = re.compile("[A-Za-z]"), re.compile("[0-9]")
_ORDINARY = re.compile(
    r"""(?x)
    [A-Za-z_]*+(?:\.(?:[A-Za-z_][A-Za-z_0-9]*+|[0-9]++))++            # name of a tensor, a module or a file
    | (?:[A-Z](?:[a-z]{2,}+[0-9]?|[0-9]))++ | [a-z]++(?:_[a-z]++)++  # name of a class or a variable
    | [.~]?/(?:home|root|tmp|usr|opt|var|etc|srv|mnt|data|work|workspace|github|__w|Users|proc|run|dev)/.*+
    """
)


def redact(text: str) -> str:
    """Replace everything that looks like a credential by `[redacted]`."""
    for _ in range(MAX_PASSES):
        before, text = text, _redact_once(text)
        if text == before:
            break
    return text


def _redact_once(text: str) -> str:
    before, folded, words = text, text.lower(), _join_long_words(text)
    for hints, in_word, apply in _RULES:
        if (words or not in_word) and any(map(folded.__contains__, hints)):
            text = apply(text)
    if text != before:
        words = _join_long_words(text)
    for hints, in_word, apply in _PREFIX_RULES:
        if any(map((words if in_word else text).__contains__, hints)):
            text = apply(text)
    return text


def _join_long_words(text: str) -> str:
    """Return the different words of a text that are long enough for a credential; a text has few."""
    words = text.translate(_SEPARATORS).split()
    return " ".join(dict.fromkeys(word for word in words if len(word) >= _MIN_WORD))


def _keep_before(match: re.Match[str]) -> str:
    return match["before"] + REDACTED


def _redact_private_keys(text: str) -> str:
    """Redact keys, also those that a cut left without beginning or end."""
    text = _PRIVATE_KEY.sub(REDACTED, text)
    *pieces, last = _PRIVATE_KEY_END.split(text)
    return "".join(_drop_key_body(piece) + REDACTED for piece in pieces) + last


def _drop_key_body(piece: str) -> str:
    body = piece[-_PRIVATE_KEY_LENGTH:]
    return piece[: len(piece) - len(body)] + body.rstrip(_PRIVATE_KEY_CHARS)


def _redact_json_web_tokens(text: str) -> str:
    return _WORD.sub(lambda match: _redact_from_token(match[0]), text)


def _redact_from_token(word: str) -> str:
    """Redact `word` from the first segment with base64 of `{"` and a segment after it."""
    at = 0
    for segment, following in itertools.pairwise(word.split(".")):
        begin = segment.find("eyJ")
        if 0 <= begin <= len(segment) - 11 and len(following) >= 8:
            return word[: at + begin] + REDACTED
        at += len(segment) + 1
    return word


def _redact_azure_keys(text: str) -> str:
    return _BASE64.sub(lambda match: REDACTED if _AZURE_MARKER.search(match[0], 32) else match[0], text)


def _redact_named(text: str) -> str:
    """Redact the random values of names such as `token`.

    A value that is not random may end with the next name.
    """
    folded = text.replace("\N{LATIN CAPITAL LETTER I WITH DOT ABOVE}", "I").lower()  # the only one that gets longer
    parts, done, at = [], 0, 0
    while match := _NAMED.search(folded, at):
        begin, end = match.span("value")
        if _is_separator(match) and _is_random(text[begin:end]):
            parts += [text[done:begin], REDACTED]
            done = at = end
        else:
            at = begin
    return "".join((*parts, text[done:]))


def _is_separator(match: re.Match[str]) -> bool:
    """Tell an assignment from running text: a space counts after an option, a comma between quotes."""
    separator = match["separator"]
    if separator == " ":
        return bool(re.search(r"--[a-z0-9_-]*\Z", match.string[max(0, match.start() - 40) : match.start()]))
    return "," not in separator or (separator[0] in "\"'" and separator[-1] in "\"'")


def _replace_random(match: re.Match[str]) -> str:
    return match["before"] + REDACTED if _is_random(match["value"]) else match[0]


def _replace_signature(match: re.Match[str]) -> str:
    return _keep_before(match) if match["always"] is not None else _replace_random(match)


def _replace_password(match: re.Match[str]) -> str:
    """Redact a password, unless it is a word of text or a name in code."""
    value = match["value"]
    in_prose = match["separator"] == ":" and value.isalpha()
    in_code = _ORDINARY.fullmatch(value) or match.string[match.end() : match.end() + 1] == "("
    ordinary = not match["quote"] and (in_prose or in_code)
    return match[0] if ordinary or _NO_PASSWORD.fullmatch(value) else _keep_before(match)


def _is_random(value: str) -> bool:
    """Return whether a value looks random: many different letters and digits, no name, no path."""
    sample = value[:256]
    different = len(set(sample))
    if len(sample) < 16 or different < _MIN_DIFFERENT or _LETTER.search(sample) is None or _ORDINARY.fullmatch(value):
        return False
    mixed = len(sample) >= 32 and different >= 2 * _MIN_DIFFERENT and "_" not in sample and not sample.islower()
    return mixed or _DIGIT.search(sample) is not None


_Rules = tuple[tuple[tuple[str, ...], bool, "Callable[[str], str]"], ...]
_RULES: _Rules = (
    (("private key",), False, _redact_private_keys),
    (("jqqj9", "+a", "acdb", "azse", "azfu", "azca"), True, _redact_azure_keys),
    (("q~",), True, partial(_AZURE_CLIENT_SECRET.sub, REDACTED)),
    (("authorization",), False, partial(_AUTHORIZATION.sub, _keep_before)),
    (("cookie",), False, partial(_COOKIE.sub, _keep_before)),
    (("bearer", "basic"), True, partial(_SCHEME.sub, _replace_random)),
    (
        ("signature", "-credential", "-security-token", "key-pair-id", "policy", "sig=", "sig%3d"),
        False,
        partial(_SIGNED.sub, _replace_signature),
    ),
    (("passw", "passphrase", "pwd"), False, partial(_PASSWORD.sub, _replace_password)),
    (
        ("token", "secret", "session", "key", "passw", "passphrase", "pwd", "auth", "credential", "jwt"),
        True,
        _redact_named,
    ),
    (("://",), False, partial(_URL_USER.sub, REDACTED)),
    (("%3a%2f%2f",), False, partial(_URL_USER_ENCODED.sub, _keep_before)),
)
"""Every secret of a rule contains one of its hints in lower case. Searching them first is far faster.

The second value says whether it also contains, or is, one word of at least `_MIN_WORD` characters: in a text without
such a word these rules are left out.
"""
_PREFIX_RULES: _Rules = (
    *(
        (tuple(hints.split()), "=" not in pattern.removesuffix("={0,2}"), partial(re.compile(pattern).sub, REDACTED))
        for hints, pattern in _PREFIXED.items()
    ),
    (("eyJ",), True, _redact_json_web_tokens),
)
"""Tokens that are one word, hint included. Where a token may have `=` inside, it is not."""
