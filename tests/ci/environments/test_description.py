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
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(RequestError, match=said):
        load_description(str(path))


def test_an_unknown_name_is_refused_with_a_suggestion() -> None:
    with pytest.raises(RequestError, match="Did you mean 'fast_llm'"):
        load_description("fast_lm")
