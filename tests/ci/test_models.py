from pathlib import Path

import pytest

from ci import models
from ci.errors import RequestError
from ci.models import HUB_TEST_CONFIGS, HubModel, Registry, load_models, override_part, parse_model, select_models

GOOD = {"model_id": "org/name", "checkpoint_format": "llama"}


def registry(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "models.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_shipped_registry_covers_every_plain_transformers_format() -> None:
    entries = load_models()
    plain = [model for model in entries.values() if not model.trust_remote_code]
    usual = {model.checkpoint_format for model in plain if "formats" not in model.groups}
    assert usual == {"llama", "mistral", "mixtral", "qwen2"}
    assert {model.checkpoint_format for model in plain} == usual | {"gemma4", "llava"}
    assert all(model.code_environment and "own-code" in model.groups for model in set(entries.values()) - set(plain))
    assert entries["llama3-8b"].gated


def test_further_formats_and_known_refusals_run_where_they_are_asked_for_only() -> None:
    entries = load_models()
    further = select_models(entries, ["@formats"])
    assert {model.checkpoint_format for model in further} >= {
        "gemma4",
        "llava",
        "dream",
        "apriel_hybrid_ssm",
        "apriel2",
    }
    assert {model.name for model in select_models(entries, ["@refused"])} < {model.name for model in further}
    assert all(model.optional and "default" not in model.groups for model in further)
    assert not {model.name for model in select_models(entries, ["*"])} & {model.name for model in further}


def test_mixtral_is_exactly_the_specification() -> None:
    mixtral = load_models()["mixtral"]
    assert mixtral.model_id == "mistralai/Mixtral-8x7B-v0.1"
    assert mixtral.num_layers_to_keep == 2
    assert mixtral.test_params == models.TestParams(batch_size=2, sequence_length=32, compare_factor=2.0)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('[a]\nmodel_idd = "o/n"\n', "[a]: unknown key 'model_idd'. Did you mean 'model_id'?"),
        ('[a]\ncheckpoint_format = "llama"\n', "[a]: model_id: Field required"),
        ('[a]\nmodel_id = "name"\ncheckpoint_format = "llama"\n', "'name' is not a Hub id; expected 'org/name'"),
        ('[a]\nmodel_id = "o/n"\ncheckpoint_format = 3\n', "checkpoint_format: Input should be a valid string, got 3"),
        (
            '[a]\nmodel_id = "o/n"\ncheckpoint_format = "llama"\nnum_layers_to_keep = 0\n',
            '[a]: num_layers_to_keep: 0 is not possible; expected 1 or more, or "auto"',
        ),
        (
            '[a]\nmodel_id = "o/n"\ncheckpoint_format = "llama"\nnum_layers_to_keep = "all"\n',
            "[a]: num_layers_to_keep: Input should be a valid integer, or Input should be 'auto', got 'all'",
        ),
        (
            '[a]\nmodel_id = "o/n"\ncheckpoint_format = "llama"\nnum_layers_to_keep = true\n',
            "num_layers_to_keep",
        ),
        (
            '[a]\nmodel_id = "o/n"\ncheckpoint_format = "llama"\n[a.test_params]\nbatchsize = 1\n',
            "[a] test_params: unknown key 'batchsize'. Did you mean 'batch_size'?",
        ),
        (
            '[a]\nmodel_id = "o/n"\ncheckpoint_format = "llama"\n[a.test_params]\ncompare_factor = 2.5\n',
            "test_params.compare_factor: 2.5; expected 1.0 to 2.0",
        ),
        (
            '[a]\nmodel_id = "o/n"\ncheckpoint_format = "llama"\n[b]\nmodel_id = "o/n"\ncheckpoint_format = "llama"\n',
            "[b] duplicates [a]",
        ),
        ('[a]\nmodel_id = "o/n"\n[a]\n', "not valid TOML"),
        ('["A b"]\nmodel_id = "o/n"\ncheckpoint_format = "llama"\n', "a name is lower-case letters"),
        (
            '[a]\nmodel_id = "o/n"\ncheckpoint_format = "llama"\ntrust_remote_code = true\ncode_revision = "main"\n',
            "[a]: code_revision: 'main' is not possible; expected a full commit of 40 hex digits",
        ),
        (
            f'[a]\nmodel_id = "o/n"\ncheckpoint_format = "llama"\ncode_revision = "{"0" * 40}"\n',
            "[a]: code_environment, code_path and code_revision need trust_remote_code = true",
        ),
        (
            (
                '[a]\nmodel_id = "o/n"\ncheckpoint_format = "llama"\ntrust_remote_code = true\ncode_path = "p"\n'
                f'code_revision = "{"0" * 40}"\n'
            ),
            "[a]: code_path and code_revision exclude each other",
        ),
        ("a = 3\n", "[a]: expected a table of keys, got 3"),
    ],
)
def test_a_wrong_registry_is_one_line_that_names_file_entry_and_key(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(RequestError) as caught:
        load_models(registry(tmp_path, text))
    assert says in str(caught.value)
    assert "models.toml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_registry_says_so(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="cannot read the registry"):
        load_models(tmp_path / "none.toml")


def test_python_entries_take_classes_as_the_specification_writes_them() -> None:
    class LlamaCheckpointFormat:
        name = "llama"

    class GPTModelConfig:
        model_name = "gpt"

    configs = Registry()
    configs["mine"] = {**GOOD, "checkpoint_format": LlamaCheckpointFormat, "model_config": GPTModelConfig}
    assert configs.model("mine") == HubModel("mine", "org/name", "llama", "gpt")


@pytest.mark.parametrize(
    ("named", "name"),
    [
        ("LlamaCheckpointFormat", "llama"),
        ("MTPLlamaCheckpointFormat", "mtp_llama"),
        ("Qwen2CheckpointFormat", "qwen2"),
        ("AprielHybridSSMCheckpointFormat", "apriel_hybrid_ssm"),
        ("mixtral", "mixtral"),
    ],
)
def test_a_classs_name_does_where_the_class_cannot_be_imported(named: str, name: str) -> None:
    table = {**GOOD, "checkpoint_format": named, "model_config": "GPTModelConfig"}
    assert models.parse_model("mine", table) == HubModel("mine", "org/name", name, "gpt")
    nameless = {**GOOD, "checkpoint_format": type(named, (), {})}
    assert models.parse_model("mine", nameless).checkpoint_format == name


def test_select_by_name_glob_group_and_default() -> None:
    known = HUB_TEST_CONFIGS.models()
    assert [m.name for m in select_models(known, ["mixtral"])] == ["mixtral"]
    assert [m.name for m in select_models(known, ["mistral*", "mixtral", "mixtral"])] == [
        "mistral",
        "mistral-v03",
        "mixtral",
    ]
    assert [m.name for m in select_models(known, ["@moe"])] == ["mixtral"]
    assert not [m.name for m in select_models(known, ["*"]) if m.optional]
    assert {m.name for m in select_models(known, ["sliced-*"])} == {m.name for m in select_models(known, ["@sliced"])}
    assert [m.name for m in select_models(known, ["sliced-mixtral"])] == ["sliced-mixtral"]
    assert {m.name for m in select_models(known, [])} == {n for n, m in known.items() if "default" in m.groups}


@pytest.mark.parametrize(("word", "says"), [("mixtrl", "Did you mean 'mixtral'"), ("@mo", "Did you mean '@moe'")])
def test_an_unknown_word_gets_a_suggestion_and_the_list(word: str, says: str) -> None:
    with pytest.raises(RequestError, match=says) as caught:
        select_models(HUB_TEST_CONFIGS.models(), [word])
    assert "Known: " in str(caught.value)


def test_chosen_layers_and_slices() -> None:
    model = parse_model("m", {"model_id": "a/b", "checkpoint_format": "x", "layers": [0, 3], "slice": {"vocab": 8}})
    assert (model.num_layers_to_keep, model.layer_request, model.part) == (2, (0, 3), "0,3, vocab=8")
    assert override_part(model, 4).layer_request == 4
    assert override_part(model, "auto").part == "auto, vocab=8"


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ({"layers": [3, 0]}, "expected indices from 0, ascending"),
        ({"layers": [-1, 2]}, "expected indices from 0, ascending"),
        ({"layers": [0, 3], "num_layers_to_keep": 3}, "drop one key"),
        ({"slice": {"rows": 3}}, "unknown key 'rows'"),
        ({"slice": {"vocab": 0}}, "expected 1 or more"),
        ({"slice": {"experts": "4"}}, "slice"),
    ],
)
def test_parts_that_are_none(table: dict[str, object], problem: str) -> None:
    with pytest.raises(RequestError, match=problem):
        parse_model("m", {"model_id": "a/b", "checkpoint_format": "x", **table})


@pytest.mark.parametrize("word", ["bisect", "cancel", "help"])
def test_a_word_of_the_comment_command_is_no_model(word: str, tmp_path: Path) -> None:
    path = tmp_path / "models.toml"
    path.write_text(f'[{word}]\nmodel_id = "a/b"\ncheckpoint_format = "llama"\n')
    with pytest.raises(RequestError, match=f"'{word}' is a word of the comment command; choose another name"):
        load_models(path)
