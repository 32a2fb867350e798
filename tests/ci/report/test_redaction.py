"""Each kind of credential in each context leaves nothing, innocent text stays, and the time is linear.

Secrets are put together here from parts, so that no scanner takes this file for a leak.
"""

from __future__ import annotations

import base64
import hashlib
import json
import random
import re
import string
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ci.report.escape import clean, code_block, escape_html, one_line
from ci.report.junit import read_junit
from ci.report.redaction import _PREFIXED, REDACTED, redact
from tests.ci.report.samples import document

if TYPE_CHECKING:
    from collections.abc import Callable

ALNUM = string.ascii_letters + string.digits
HEX = "0123456789abcdef"
UPPER = string.ascii_uppercase + "234567"
BASE64 = ALNUM + "+/"
URLSAFE = ALNUM + "-_"


def draw(length: int, alphabet: str = ALNUM, seed: int = 0) -> str:
    """The same random characters in every run; a digit in the fourth place, as nearly every real one has some."""
    drawn = "".join(random.Random(f"{length} {alphabet} {seed}").choices(alphabet, k=length))
    return drawn[:3] + "7" + drawn[4:]


def json_web_token() -> str:
    header, payload = (
        base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")
        for part in (
            {"alg": "RS256", "typ": "JWT", "kid": "k1"},
            {"iss": "github", "exp": 2, "scp": ["contents:write"]},
        )
    )
    return f"{header}.{payload}.{draw(342, URLSAFE)}"


def private_key(kind: str = "") -> str:
    body = "\n".join(draw(64, BASE64, line) for line in range(20))
    return (
        f"-----BEGIN {kind}PRIVATE " + f"KEY-----\n{body}\n{draw(30, BASE64)}==\n-----END {kind}PRIVATE " + "KEY-----"
    )


BARE = {
    **{f"github {kind}": f"gh{kind}_" + draw(36) for kind in "pousr"},
    "github app, stateless": "ghs_" + "1234567_" + json_web_token(),
    "github app, stateless without a number": "ghs_" + json_web_token(),
    "github fine-grained": "github_" + "pat_" + draw(22) + "_" + draw(59),
    "github old installation": "v1." + draw(40, HEX),
    "hugging face": "hf" + "_" + draw(34),
    "hugging face oauth": "hf" + "_oauth_" + json_web_token(),
    "hugging face organization": "api_" + "org_" + draw(34),
    **{f"gitlab {kind}": f"gl{kind}-" + draw(20, URLSAFE) for kind in ("pat", "ptt", "rt", "dt", "cbt")},
    "gitlab routable": "glpat-" + draw(30, URLSAFE) + ".01." + draw(9, HEX),
    "gitlab runner registration": "GR13" + "48941" + draw(20, URLSAFE),
    **{f"aws {kind}": kind + draw(16, UPPER) for kind in ("AKI" + "A", "ASI" + "A", "ABI" + "A")},
    "aws bedrock": "ABS" + "K" + draw(120, BASE64) + "==",
    "google": "AIz" + "a" + draw(35, URLSAFE),
    "google oauth": "ya29" + "." + draw(80, URLSAFE),
    "google client": "GOC" + "SPX-" + draw(28, URLSAFE),
    "stripe": "sk_" + "live_" + draw(24),
    "stripe restricted": "rk_" + "test_" + draw(99),
    "stripe webhook": "whs" + "ec_" + draw(32),
    "docker": "dckr_" + "pat_" + draw(27, URLSAFE),
    "docker organization": "dckr_" + "oat_" + draw(32, URLSAFE),
    "slack bot": "xox" + "b-" + "1234567890-1234567890123-" + draw(24),
    "slack app": "xap" + "p-1-" + draw(11, UPPER) + "-1234567890123-" + draw(64, HEX),
    "slack webhook": "https://hooks." + "slack.com/services/" + draw(9, UPPER) + "/" + draw(11, UPPER) + "/" + draw(24),
    "npm": "npm" + "_" + draw(36),
    "pypi": "pypi-" + "AgEIcHlwaS5vcmc" + draw(120, URLSAFE),
    "weights & biases": "wandb" + "_v1_" + draw(80, URLSAFE),
    "weights & biases, own server": "local" + "-" + draw(40, HEX),
    "openai": "sk-" + "proj-" + draw(74, URLSAFE) + "T3Blb" + "kFJ" + draw(74, URLSAFE),
    "openai, old": "sk-" + draw(20) + "T3Blb" + "kFJ" + draw(20),
    "anthropic": "sk-" + "ant-api03-" + draw(93, URLSAFE) + "AA",
    "nvidia": "nva" + "pi-" + draw(64, URLSAFE),
    "replicate": "r8" + "_" + draw(37),
    "databricks": "dap" + "i" + draw(32, HEX),
    "sendgrid": "SG" + "." + draw(22, URLSAFE) + "." + draw(43, URLSAFE),
    "vault": "hvs" + "." + draw(95, URLSAFE),
    "azure client": draw(3) + "8Q" + "~" + draw(34),
    "azure storage, identifiable": draw(76, BASE64) + "+AS" + "t" + draw(6) + "==",
    "azure search": draw(42) + "Az" + "SeB" + draw(5),
    "json web token": json_web_token(),
}
"""Recognized by themselves, wherever they are: these have ten contexts."""

NAMED = {
    "aws secret": ('aws_secret_access_key = "{}"', draw(40, BASE64)),
    "aws secret, environment": ("AWS_SECRET_ACCESS_KEY={}", draw(40, BASE64)),
    "aws secret without a digit": ("AWS_SECRET_ACCESS_KEY={}", "abcdEFGHijklMNOPqrstUVWXyzabCDEFghijKLMN"),
    "azure storage": ("DefaultEndpointsProtocol=https;AccountName=x;AccountKey={};", draw(86, BASE64) + "=="),
    "azure service bus": ("SharedAccessKeyName=root;SharedAccessKey={}", draw(43, BASE64) + "="),
    "azure signature": ("https://x.blob.core.windows.net/c?sv=2022-11-02&sr=b&sig={}&se=2", draw(40) + "%2F%2Bab%3D"),
    "azure client, by name": ("AZURE_CLIENT_SECRET={}", draw(40, ALNUM + "~.")),
    "weights & biases, by name": ("WANDB_API_KEY={}", draw(40, HEX)),
    "docker config": ('{{"auths": {{"ghcr.io": {{"auth": "{}"}}}}}}', base64.b64encode(b"name:word4711word").decode()),
    "generic token": ("CI_JOB_TOKEN: {}", draw(20)),
    "generic secret": ("'client_secret': '{}'", draw(32)),
    "api key in JSON in JSON": (r"{{\"api_key\": \"{}\"}}", draw(32)),
    "token in a query": ("https://h/x?a=1&access_token={}&b=2", draw(32)),
    "token in an encoded query": ("https%3A%2F%2Fh%2Fx%3Faccess_token%3D{}%26b%3D2", draw(32)),
    "environment as tuples": ("[('HF_TOKEN', '{}'), ('HOME', '/root')]", draw(37)),
    "token of an option": ("hub --auth-token {} --verbose", draw(32)),
    "npm configuration": ("//registry/:_authToken={}", draw(36)),
    "password": ("password={}", "hunter2!"),
    "password in JSON": ('"password": "{}"', "correcthorse"),
    "password of a database": ("PGPASSWORD={} psql", "s3cr3t"),
    "password in an address": ("postgres://user:{}@db:5432/x", "pa55:word%21"),
    "password in an encoded address": ("https%3A%2F%2Fuser%3A{}%40db%2Fx", "pa55word"),
    "user of an address": ("https://{}@host/x", draw(20)),
    "bearer": ("curl -H 'Authorization: Bearer {}'", draw(40, URLSAFE)),
    "bearer without its header": ("using bearer {}", draw(40, URLSAFE)),
    "basic": ("authorization: Basic {}", base64.b64encode(b"name:password").decode()),
    "header with another scheme": ("Authorization: token {}", draw(20)),
    "header in JSON": ('{{"Authorization": "Bearer {}"}}', draw(24)),
    "header in bytes": ("{{b'Authorization': b'Bearer {}'}}", draw(24)),
    "header of an API": ("X-Api-Key: {}", draw(32)),
    "gitlab header": ("PRIVATE-TOKEN: {}", draw(20)),
    "cookie": ("Cookie: session={}; theme=dark", draw(12)),
    "cookie of an answer": ("Set-Cookie: sid={}; Path=/; HttpOnly", draw(12)),
    "cookie in JSON": ('"cookie": "_gitlab_session={}"', draw(32, HEX)),
    "signed address of Amazon": ("https://cdn/x?X-Amz-Credential=a%2Fb&X-Amz-Signature={}&y=1", draw(64, HEX)),
    "signed address of Google": ("https://storage/x?X-Goog-Signature={}", draw(256, HEX)),
    "signed address of the Hub": ("https://cdn/x?Expires=1&Policy=eyJ0&Signature={}&Key-Pair-Id=K", draw(60, URLSAFE)),
    "private key": ("{}", private_key()),
    "private key, RSA": ("x\n{}\ny", private_key("RSA ")),
    "private key, OpenSSH, in JSON": ('{{"private_key": "{}"}}', private_key("OPENSSH ").replace("\n", "\\n")),
    "private key without an end": ("{}", private_key()[:900]),
    "private key without a beginning": ("error:\n{}", private_key()[200:]),
}  # fmt: skip
"""Recognized by what stands before them."""

CONTEXTS: dict[str, Callable[[str], str]] = {
    "start": "{} is wrong".format,
    "after a newline": "no access\n{}\nend".format,
    "after an escaped newline": r"no access\n{}\nend".format,
    "after =": "VALUE={}".format,
    "after %3D": "https://h/x?next%3D{}%26a".format,
    "after _": "prefix_{} end".format,
    "in a URL": "https://host/path/{}/more?x=1".format,
    "in user info": "https://x-access:{}@github.com/o/r".format,
    "in JSON": '{{"a": [1, "{}"], "b": 2}}'.format,
    "in a traceback": "E       ValueError: cannot use '{}' for 'a/b'\nci/x.py:7: ValueError".format,
}


def assert_gone(secret: str, shown: str) -> None:
    """Nothing of the secret's random parts is left, in pieces of eight characters."""
    parts = re.split(r"[^A-Za-z0-9+/_-]+", secret)
    pieces = {part[at : at + 8] for part in parts for at in range(max(len(part) - 7, 0))}
    pieces -= {"-----BEG", "PRIVATE "}
    left = [piece for piece in pieces if piece in shown]
    assert not left, (secret, shown)


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("kind", BARE)
def test_nothing_is_left_of_a_secret_in_any_context(kind: str, context: str) -> None:
    shown = clean(CONTEXTS[context](BARE[kind]))
    assert_gone(BARE[kind].removeprefix("https://hooks.slack.com/services/"), shown)
    assert REDACTED in shown


@pytest.mark.parametrize("kind", NAMED)
def test_nothing_is_left_of_a_secret_after_its_name(kind: str) -> None:
    form, secret = NAMED[kind]
    for around in ("{}", "E   x\n{}\ny", "a_{}", r"a\n{}", "a&{}"):
        shown = clean(around.format(form.format(secret)))
        assert REDACTED in shown
        assert secret not in shown
        assert_gone(secret, shown)


@pytest.mark.parametrize("colour", ["\x1b[31m", "#x1B[1;31m", "\u200b", "\x00", "\x1b]8;;https://e.x\x07"])
@pytest.mark.parametrize("kind", BARE)
def test_a_secret_split_by_a_sequence_is_found(kind: str, colour: str) -> None:
    secret = BARE[kind]
    for at in (1, 4, len(secret) // 2, len(secret) - 1):
        assert_gone(secret.removeprefix("https://"), clean(f"error {secret[:at]}{colour}{secret[at:]} end"))


CUTS: dict[str, Callable[[str], str]] = {
    "one line": lambda text: one_line(text, 60),
    "code block": lambda text: code_block(text, 60),
    "HTML": lambda text: escape_html(text, 60),
    "message": lambda text: (
        read_junit(document(f'<testcase name="a"><failure message="{text}"/></testcase>')).cases[0].message
    ),
    "detail": lambda text: (
        read_junit(document(f'<testcase name="a"><failure>{text}</failure></testcase>')).cases[0].detail
    ),
}


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("kind", ["github p", "github app, stateless", "hugging face", "openai", "azure client"])
def test_a_secret_cut_by_a_limit_is_found(kind: str, cut: str) -> None:
    """The limit falls on each of many places of the secret; the characters before it are such that vanish."""
    secret = BARE[kind]
    limits = {
        "one line": 480 + 4096,
        "code block": 120 + 4096,
        "HTML": 120 + 4096,
        "message": 4000 + 4096,
        "detail": 64_000,
    }
    for shown_of_it in range(1, min(len(secret), 60), 7):
        gap = limits[cut] - shown_of_it if cut != "detail" else limits[cut] - len(secret) + shown_of_it
        text = "\u200b" * (gap - 1) + f" {secret}" if cut != "detail" else f"{secret} " + "\u200b" * (gap - 1)
        assert_gone(secret, CUTS[cut](text + "\u200b" * 5000 if cut != "detail" else text))


def test_the_new_tokens_of_github_leave_nothing() -> None:
    token = BARE["github app, stateless"]
    for text in (f"with {token} end", f"x-access-token: {token}", f"https://x-access-token:{token}@github.com/o/r"):
        shown = clean(text)
        assert not any(part[:12] in shown or part[-12:] in shown for part in token.split("."))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("https://user:pass@host/x", "https://[redacted]host/x"),
        ("https://token0123456789@host/x", "https://[redacted]host/x"),
        ("Authorization: Bearer abcdefghij0123456789", "Authorization: Bearer [redacted]"),
        ("HF_TOKEN=abcdefghij0123456789", "HF_TOKEN=[redacted]"),
        ('"api_key": "abcdefghij0123456789"', '"api_key": "[redacted]"'),
        ("https://cdn/x?a=1&X-Amz-Signature=0123456789abcdef&b=2", "https://cdn/x?a=1&X-Amz-Signature=[redacted]&b=2"),
        ("-----BEGIN RSA PRIVATE KEY-----\nabc\n-----END RSA PRIVATE KEY-----", "[redacted]"),
        ("-----BEGIN PRIVATE KEY-----\ncut off", "[redacted]"),
        ("token=not.a.secret.1 token=abcdefghij0123456789", "token=not.a.secret.1 token=[redacted]"),
        ("İİİ token=abcdefghij0123456789", "İİİ token=[redacted]"),
    ],
)
def test_the_name_of_a_redacted_value_stays(before: str, after: str) -> None:
    assert redact(before) == after


INNOCENT = (
    "decoder.1.mixer.key: error 1.6e-02",
    "test_conversion[mixtral] failed: KeyError: 'model.layers.0.self_attn.k_proj.weight'",
    "tokenizer.json and special_tokens_map.json are missing, token_error=1.5 of token_limit=2",
    "https://huggingface.co/mistralai/Mixtral-8x7B-v0.1/resolve/985aa055896a8f943d4a9f2572e6ea1341823841/config.json",
    "the secret of it: nothing",
    "max_new_tokens: 1234567890123456",
    "set HF_TOKEN and accept the terms",
    "HEAD is now at 985aa055896a8f943d4a9f2572e6ea1341823841 Merge",
    "sha256:" + hashlib.sha256(b"weights").hexdigest(),
    "integrity sha512-" + base64.b64encode(hashlib.sha512(b"weights").digest()).decode(),
    "fingerprint SHA256:" + base64.b64encode(hashlib.sha256(b"weights").digest()).decode().rstrip("="),
    "assert b64encode(x) == 'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kg=='",
    "/home/runner/work/_temp/hub-tests/store/models--mistralai--Mixtral-8x7B/blobs/0123456789abcdef",
    "token: /home/user1/.cache/huggingface/token",
    "missing token: model.layers.10.self_attn.q_proj.weight",
    "fast_llm.models.gpt.conversion.llama.LlamaAttentionConverter_v2.import_config",
    "truncated_hf_path, fast_llm_path_seq_tp2, hf_model_config, hf_hub_download_with_retries_v2",
    "task-implementation-of-attention-v2 risk-aware disk-cache-for-checkpoints-2 mask-attention01234567890123",
    "ghs_path highs_and_lows_of_the_model_2 lengths_per_sequence_and_batch",
    "remat_policy=nothing_saveable sig=0.0000001 signature=(x: int, y: int)",
    "Enter password: correct, then token: none; passwd: files systemd; password=None",
    "basic implementation_of_attention, bearer of_good_news",
    "authorization: required; the author: Jane; authority=https://host:8443/path",
    "cookie: none, secret santa, key=value, cache_key=0123456789abcdef0123456789abcdef",
    "pypi-package-with-a-very-long-name-of-40-characters, npm_config_registry_and_cache_folder",
    "bos_token='<s>', eos_token_id=128001, pad_token='<|endoftext|>', tokenizer_class=LlamaTokenizerFastForTests",
    "inference_session: Sam2VideoInferenceSession, password=container_registry_password, password = getpass()",
    "mailto:a@b.c, git@github.com:org/repo.git, https://github.com/@octocat/x",
    "conv1.0 v1.2.3 v1.0123456789 eyJhbGciOiJIUzI1NiJ9 layers.eyJ.0",
    "SG.1 s.a A3T xoxo-hugs r8_1 sk-learn sk_test_module k_test_x dapi/v1",
)


@pytest.mark.parametrize("text", INNOCENT)
def test_innocent_text_is_not_changed(text: str) -> None:
    assert clean(text) == text
    assert redact(f"E   {text}\n{text}") == f"E   {text}\n{text}"


def test_nothing_of_this_repository_looks_like_a_secret() -> None:
    """Golden reports, recorded evidence, source and documents are full of hashes, paths and names."""
    root = Path(__file__).parents[3]
    paths = [path for place in ("ci", "docs", "benchmarks", "tests") for path in (root / place).rglob("*.*")]
    paths = [path for path in paths if "node_modules" not in path.parts]
    texts = {
        path: path.read_text(errors="replace") for path in paths if path.suffix in (".py", ".md", ".toml", ".json")
    }
    assert len(texts) > 200
    changed = {
        (path.name, line)
        for path, text in texts.items()
        if path.name not in EXAMPLES and redact(text) != text
        for line in text.splitlines()
        if redact(line) != line
    }
    assert changed == set()


EXAMPLES = {
    *(Path(__file__).name, "samples.py", "github_markdown.py", "test_escape.py", "test_evidence_parser.py"),
    *("test_html_page.py", "test_junit.py", "test_server.py", "test_source.py"),
    *("test_config_file.py", "test_description.py", "test_probes.py", "test_remote_files.py"),
}
"""Files with tokens made up for tests."""


def rounds(unit: str, size: int) -> str:
    return unit * (size // len(unit) + 1)


PREFIXES = (
    *("ghp_", "ghs_1_", "hf_", "hf_oauth_", "glpat-", "AKIA", "ABSK", "ya29.", "1//0", "sk_live_", "sk_live_aaaaaaaaa"),
    *("xoxb-", "xoxb.xox", "hooks.slack.com/aaaa/", "/api/webhooks/1", "sk-", "sk-ant-", "local-", "SG.", "r8_"),
    *("dapi", "SG." + "a" * 16, "eyJ", "eyJ.", "eyJabcdefgh.", "-----BEGIN ", "-----BEGIN PRIVATE KEY-----"),
    *("-----END PRIVATE KEY-----", "A\n-----END PRIVATE KEY-----", "0Q~", "AzSe", "AzSe" + "a" * 50 + " ", "+ASt"),
    *("token", "token=", "token: ", "token%3D", "token=aaaaaaaaaaaaaaaa", "token=a.", "token" + " " * 5, "token\\"),
    *("auth=", 'token"', "secret_", "api_key", "password=", "password:a", "authorization", "authorization: "),
    *("authorization: bearer ", "cookie: ", "cookie: a=", "bearer ", "basic aaaaaaaaaaaaaaaa ", "sig="),
    *("X-Amz-Signature=", "://", "://a@", "%3A%2F%2F", "%3A%2F%2Fa", "#x1B", "#x1B]", "#x1B[0", "\x1b[31m"),
    *("\x1b]8;;", "\x9b1", "some line\n", "a", "\u200b"),
)


def one_word(prefix: str, size: int) -> str:
    return prefix + "a" * size


HOSTILE: dict[str, Callable[[int], str]] = {
    **{f"many {prefix!r}": partial(rounds, prefix) for prefix in PREFIXES},
    **{f"{prefix!r} and one word": partial(one_word, prefix) for prefix in PREFIXES},
    "nested sequences": lambda size: "#x1B" * (size // 6) + "[m" * (size // 6),
    "nested marks": lambda size: "#x" * (size // 8) + "#x1B" + "1B" * (size // 8),
}


WORD = re.compile(r"[a-z]+")


def seconds(work: Callable[[str], object], text: str) -> float:
    def once() -> float:
        start = time.process_time()
        work(text)
        return time.process_time() - start

    return min(once() for _ in range(3))


@pytest.mark.parametrize("attack", HOSTILE)
def test_twice_the_text_takes_twice_the_time(attack: str) -> None:
    """Besides 5 ms of noise. A quadratic expression takes seconds for the larger text."""
    make = HOSTILE[attack]
    once, twice = (seconds(lambda text: clean(text), make(size)) for size in (40_000, 80_000))
    assert twice < 3 * once + 0.005


def test_a_very_long_text_is_cut_before_it_costs_time() -> None:
    assert len(clean("word " * 10**6)) < 2**20
    assert len(clean("a" * 10**7)) < 2**20
    longest = "token=" * (2**20 // 6)
    assert seconds(clean, 30 * longest) < 6 * seconds(clean, longest)


@pytest.mark.parametrize(
    "make",
    [
        lambda size: document(f'<testcase name="a"><failure message="{"a" * size}"/></testcase>'),
        lambda size: document(f'<testcase name="{"a" * size}"/>'),
        lambda size: document(f'<testcase name="a"><failure>{"token=" * (size // 6)}</failure></testcase>'),
        lambda size: document(f'<!-- {"c" * size} --><testcase name="a"/>'),
        lambda size: document(f'<testcase name="a"><system-out><![CDATA[{"d" * size}]]></system-out></testcase>'),
    ],
    ids=["message", "name", "text", "comment", "output"],
)
def test_a_huge_attribute_takes_seconds(make: Callable[[int], bytes]) -> None:
    small, large = make(4_000_000), make(8_000_000)
    once, twice = (seconds(lambda text: read_junit(text), source) for source in (small, large))  # type: ignore[arg-type]
    assert [case.name[:1] for case in read_junit(large).cases] == ["a"]
    assert twice < 3 * once + 0.02


def test_thousands_of_failures_full_of_hints_cost_little_more_than_reading_them() -> None:
    """5000 failures of 6 KB each took 1.2 s on two cores with a load of 16, ordinary text as long.

    One substitution of every word takes about as long on any machine.
    """
    plain, hints = ("x = 1; the quick brown fox\n" * 220)[:6000], "token=" * 1000

    def repeat(text: str) -> None:
        for number in range(50):
            redact(f"{number} {text}")

    def replace_words(text: str) -> None:
        for number in range(50):
            WORD.sub("", f"{number} {text}")

    rounds = [(seconds(repeat, hints), seconds(repeat, plain), seconds(replace_words, plain)) for _ in range(5)]
    with_hints, without, one_substitution = map(min, zip(*rounds, strict=True))
    assert with_hints < 1.6 * without, "hints cost no more than text"
    assert with_hints < 10 * one_substitution


@settings(deadline=None, max_examples=600, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
@given(st.data(), st.sampled_from(sorted(_PREFIXED.values())))
def test_every_token_of_a_kind_is_found_among_the_long_words(data: st.DataObject, pattern: str) -> None:
    """The shortest ones too: the search for long words leaves out nothing that a rule would redact."""
    token = data.draw(st.from_regex(re.compile(pattern, re.ASCII), fullmatch=True))
    expected = re.sub(pattern, REDACTED, f"<{token}>")
    assert token not in expected
    assert token not in redact(f"<{token}>")


tokens = st.sampled_from([*BARE.values(), *(form.format(secret) for form, secret in NAMED.values())])


@settings(deadline=None, max_examples=150)
@given(
    st.lists(st.one_of(tokens, st.sampled_from(["\n", " ", "_", "=", "%3D", "://", "@", '"', "token=", "x"]))).map(
        "".join
    )
)
def test_redacting_again_changes_nothing(text: str) -> None:
    assert redact(redact(text)) == redact(text)
