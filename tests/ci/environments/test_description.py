"""A description is read strictly, and known by what it says."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ci.environments.description import load_description, shipped_descriptions
from ci.errors import RequestError

if TYPE_CHECKING:
    from pathlib import Path

GOOD = 'name = "mine"\npython = ">=3.11"\nrequirements = ["numpy"]\n'
REFUSED = (
    *("PYTHONPATH", "PYTHONSTARTUP", "LD_PRELOAD", "LD_LIBRARY_PATH", "GITHUB_ENV", "github_token", "HUB_TESTS_CACHE"),
    *("AWS_SECRET_ACCESS_KEY", "OPENAI_API_KEY", "DB_PASSWD", "GOOGLE_APPLICATION_CREDENTIALS"),
    *("PATH", "HOME", "TMPDIR", "BASH_ENV", "GIT_DIR", "PIP_INDEX_URL", "HF_TOKEN", "AWS_SECRET", "ACTIONS_CACHE_URL"),
)


def test_ordinary_variables_are_read(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(GOOD + '[environment]\nMAX_JOBS = "4"\nFLASH_ATTENTION_FORCE_BUILD = "TRUE"\nCC = "gcc-13"\n')
    assert load_description(str(path)).environment == {
        "MAX_JOBS": "4",
        "FLASH_ATTENTION_FORCE_BUILD": "TRUE",
        "CC": "gcc-13",
    }


def test_the_shipped_ones_are_read() -> None:
    assert shipped_descriptions() == ("fast_llm", "fast_llm-gemma4", "hf-4-57", "hf-5-14", "reference", "vllm")
    assert [load_description(name).name for name in shipped_descriptions()] == list(shipped_descriptions())


def test_the_digest_is_of_the_content(tmp_path: Path) -> None:
    one, same, other = (tmp_path / name for name in ("one.toml", "same.toml", "other.toml"))
    one.write_text(GOOD)
    same.write_text(f"# a comment\n{GOOD}")
    other.write_text(GOOD.replace("numpy", "numpy<2"))
    digests = [load_description(str(path)).digest for path in (one, same, other)]
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (GOOD + "requirement = []\n", "requirement: "),
        (GOOD.replace('"numpy"', '"--index-url=http://evil"'), "options are not allowed"),
        (GOOD.replace("mine", "../mine"), "expected lower case"),
        (GOOD + 'import-path = "../other"\n', "below the checkout"),
        (GOOD + 'install = "copy"\n', "install: "),
        *(
            (GOOD + f'[environment]\n{name} = "x"\n', f"environment: '{name}': a description may not")
            for name in REFUSED
        ),
        (GOOD + '[environment]\n"A=B" = "x"\n', "environment: 'A=B': expected NAME"),
        (GOOD + '[environment]\nA = "x\\u0001"\n', "environment: 'A': expected NAME"),
        ("name = ", "not TOML"),
        (GOOD.replace('">=3.', '"whatever >=3.'), "python 'whatever .*expected versions, like >=3.12"),
        (GOOD.replace('"numpy"', '"numpy >> 3"'), "requirements: 'numpy >> 3': expected a package, like torch"),
        (GOOD + 'import-tests = "x"\n', "import-tests: unknown key, .*Did you mean 'import-test'"),
        (GOOD + 'import-test = "a"\nimport_test = "b"\n', "import_test: given twice"),
        (GOOD + 'import-test = "a\\u0000b"\n', "import-test: expected printable text"),
        (GOOD + 'import-path = "a\\u0000b"\n', "import-path: expected printable text"),
        (GOOD + f'import-test = "{"#" * 300_000}"\n', "import-test: 300000 characters, expected at most"),
        (GOOD + f'[environment]\nA = "{"x" * 300_000}"\n', "environment: 300001 characters, expected at most"),
        (f"a = {'[' * 100_000}", "not TOML that can be read: nested too deeply"),
        ("#" * 2**21, "more than 1048576 bytes"),
        (GOOD + 'excluded = ["numpy>=1"]\n', "excluded: 'numpy>=1': expected the name of a package alone"),
        (GOOD + 'constraints = ["numpy[x]<2"]\n', "constraints: 'numpy.x.<2': a constraint has no extras"),
        (GOOD + 'constraints = ["numpy @ file:///a.whl"]\n', "constraints: .*belongs into requirements"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(RequestError, match=said):
        load_description(str(path))


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("numpy\\n--index-url http://host/simple", "options are not allowed"),
        (" --index-url http://host/simple", "options are not allowed"),
        ("numpy @ file:///a.whl --no-deps", "options are not allowed"),
        ("numpy\\n/a/evil.whl", "expected one package in one line"),
        ("# /a/b", "expected one package in one line"),
        ("/a/b \\\\", "expected one package in one line"),
        ("./a.whl", "expected a whole path"),
        ("numpy @ https://me:hidden@host/a.whl", "an address with a login would be readable"),
        ("numpy @ git+https://hidden@host/a.git", "an address with a login would be readable"),
        ("numpy @ https://[host/a.whl", "expected an address"),
    ],
)
def test_a_requirement_is_one_package_and_nothing_else(tmp_path: Path, word: str, said: str) -> None:
    """Each line goes into a file of requirements: what an installer would read as an option is one there."""
    path = tmp_path / "mine.toml"
    path.write_text(GOOD.replace('"numpy"', f'"{word}"'))
    with pytest.raises(RequestError, match=said) as refused:
        load_description(str(path))
    assert "\n" not in str(refused.value)


def test_places_and_a_byte_order_mark_are_read(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    words = [
        "a @ file:///srv/a b/a.whl",
        "/srv/b.whl",
        "c @ git+ssh://git@host/c@main",
        "d[x]>=1; python_version > '3'",
    ]
    path.write_bytes(b"\xef\xbb\xbf" + GOOD.replace('"numpy"', ", ".join(f'"{word}"' for word in words)).encode())
    assert load_description(str(path)).requirements == tuple(words)


@pytest.mark.parametrize("name", ["FAST_LLM", "fast-llm", "a\nb", "", ".", "x" * 5000])
def test_what_is_no_name_is_one_line(name: str) -> None:
    with pytest.raises(RequestError, match=r"expected .*fast_llm, .* or a TOML file") as refused:
        load_description(name)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 400


def test_a_directory_of_that_name_hides_no_description(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fast_llm").mkdir()  # as in a checkout of Fast-LLM
    monkeypatch.chdir(tmp_path)
    assert load_description("fast_llm").name == "fast_llm"


def test_a_file_without_end_is_refused() -> None:
    with pytest.raises(RequestError, match="/dev/zero: more than 1048576 bytes"):
        load_description("/dev/zero")


def test_an_unknown_name_is_refused_with_a_suggestion() -> None:
    with pytest.raises(RequestError, match="Did you mean 'fast_llm'"):
        load_description("fast_lm")
