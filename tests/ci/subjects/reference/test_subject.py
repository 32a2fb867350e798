"""The protocol: convert, export, describe and variants, on good and on bad directories."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from ci.companion_files import COMPANION_FILES, list_files
from ci.errors import HubTestsError, RequestError, SubjectError, UnsupportedError
from ci.subjects.base import ExportRequest, Subject
from ci.subjects.reference import directories
from ci.subjects.reference.offer import OFFER
from ci.subjects.reference.subject import ReferenceSubject
from tests.ci.subjects.reference.cases import CASES, convert_request, format_of, model, model_config_of
from tests.ci.subjects.reference.test_convert import tensors

if TYPE_CHECKING:
    from collections.abc import Callable

    from ci.subjects.base import DType
    from tests.ci.subjects.reference.conftest import ModelFactory

SUBJECT: Subject = ReferenceSubject()


def export(source: Path, target: Path, checkpoint_format: str, dtype: DType = "float32") -> Path:
    model_config = model_config_of(checkpoint_format)
    SUBJECT.export(ExportRequest(str(source), str(target), checkpoint_format, model_config, dtype=dtype))
    return target


@pytest.mark.parametrize("name", CASES)
def test_there_and_back_is_exact(tmp_path: Path, name: str) -> None:
    source = model(name, tmp_path / "hf", dtype="bfloat16")
    result = SUBJECT.convert(convert_request(source, tmp_path / "fast_llm", format_of(name)))
    companions = set(list_files(source, COMPANION_FILES))
    assert set(result.files) == {"metadata.yaml", "model_0.safetensors", "ok"} | companions
    assert result.bytes_written == sum(path.stat().st_size for path in (tmp_path / "fast_llm").iterdir())
    back = export(tmp_path / "fast_llm", tmp_path / "back", format_of(name), "bfloat16")
    assert companions <= {path.name for path in back.iterdir()}, "they come back as they went"
    before, after = tensors(source), tensors(back)
    assert before.keys() == after.keys()
    assert all(after[key].equal(before[key]) and after[key].dtype == torch.bfloat16 for key in before)
    config, exported = read_json(source / "config.json"), read_json(back / "config.json")
    changed = {key for key in config.keys() | exported.keys() if config.get(key) != exported.get(key)}
    assert changed <= {"rope_scaling", "max_window_layers", "layer_types"}, (config, exported)


def read_json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def test_transformers_loads_the_export_exactly(factory: ModelFactory, tmp_path: Path) -> None:
    back = export(factory.converted("mixtral"), tmp_path / "back", "mixtral", "float16")
    loaded, info = AutoModelForCausalLM.from_pretrained(back, output_loading_info=True)
    assert loaded.dtype == torch.float16
    assert not any(info.values())


def test_without_the_original_every_key_is_spelled_out(factory: ModelFactory, tmp_path: Path) -> None:
    """A checkpoint that Fast-LLM wrote knows no config.json."""
    source = tmp_path / "fast_llm"
    shutil.copytree(factory.converted("llama-yarn"), source)
    edit_metadata(source, lambda tree: tree["metadata"].pop("huggingface_config"))
    config = read_json(export(source, tmp_path / "back", "llama") / "config.json")
    assert (config["head_dim"], config["attention_bias"], config["rope_scaling"]["factor"]) == (16, False, 4.0)
    assert not any(AutoModelForCausalLM.from_pretrained(tmp_path / "back", output_loading_info=True)[1].values())


def edit_metadata(directory: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    tree = yaml.safe_load((directory / "metadata.yaml").read_text())
    edit(tree)
    (directory / "metadata.yaml").write_text(yaml.safe_dump(tree))


def test_it_says_who_it_is() -> None:
    description = SUBJECT.describe()
    assert description.subject == "reference"
    assert description.formats == OFFER.formats
    assert description.libraries.keys() == {"torch", "safetensors"}


@pytest.mark.parametrize("name", ["llama", "mixtral"])
def test_variants_are_those_of_the_offer(factory: ModelFactory, name: str) -> None:
    variants = SUBJECT.variants(str(factory.converted(name)))
    assert variants == OFFER.variants_of(name)
    assert [variant.name for variant in variants if variant.default] == ["eager", "looped"][: 1 + (name == "mixtral")]


def without(name: str) -> Callable[[Path], None]:
    def damage(directory: Path) -> None:
        (directory / name).unlink()

    return damage


def rewritten(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    """Rewrite the one safetensors file of a directory."""

    def damage(directory: Path) -> None:
        (file,) = directory.glob("*.safetensors")
        content = load_file(file)
        change(content)
        save_file(content, file)

    return damage


def renamed(old: str, new: str) -> Callable[[dict[str, torch.Tensor]], object]:
    return lambda content: content.update({new: content.pop(old)})


NAN = torch.full((96,), float("nan"))
Q_PROJ, QUERY = "model.layers.0.self_attn.q_proj.weight", "decoder.0.mixer.query.weight/weights"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without("config.json"), r"config\.json cannot be read"),
        (without("model.safetensors"), r"has neither model\.safetensors nor"),
        (lambda path: (path / "config.json").write_text("{"), r"config\.json: not valid JSON"),
        (rewritten(lambda content: content.pop(Q_PROJ)), f"'{Q_PROJ}' is missing"),
        (rewritten(renamed(Q_PROJ, "model.layers.0.attn.q.weight")), f"'{Q_PROJ}' is missing"),
        (rewritten(lambda content: content.update(extra=torch.zeros(1))), "'extra' is unexpected"),
        (rewritten(lambda content: content.update({Q_PROJ: torch.zeros(96, 97)})), "has shape"),
        (rewritten(lambda content: content.update({"model.norm.weight": NAN})), r"'model\.norm\.weight' contains NaN"),
    ],
)
def test_a_bad_hugging_face_directory_leaves_nothing(tmp_path: Path, damage: Any, message: str) -> None:
    source = model("llama", tmp_path / "hf")
    merge(source)
    damage(source)
    with pytest.raises(SubjectError, match=message):
        SUBJECT.convert(convert_request(source, tmp_path / "target", "llama"))
    assert {path.name for path in tmp_path.iterdir()} <= {"hf", "home"}


def merge(directory: Path) -> None:
    """All shards as one file."""
    content = tensors(directory)
    for path in (*directory.glob("*.safetensors"), *directory.glob("*.index.json")):
        path.unlink()
    save_file(content, directory / "model.safetensors")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without("ok"), "not a finished checkpoint"),
        (without("metadata.yaml"), r"metadata\.yaml cannot be read"),
        (without("model_0.safetensors"), r"model_0\.safetensors cannot be read"),
        (lambda path: (path / "metadata.yaml").write_text("a: [1"), r"metadata\.yaml cannot be read"),
        (lambda path: (path / "metadata.yaml").write_text("7"), r"metadata\.yaml must be a mapping"),
        (rewritten(lambda content: content.pop(QUERY)), f"'{QUERY}' is missing"),
        (rewritten(renamed(QUERY, "decoder.0.mixer.q/weights")), "state_index says None"),
        (rewritten(lambda content: content.update({QUERY: torch.zeros(1)})), "has shape"),
        (rewritten(lambda content: content.update({"head.final_norm.weight/weights": NAN})), "contains NaN"),
        (lambda path: edit_metadata(path, lambda tree: tree.update(format="distributed")), "format 'distributed'"),
        (lambda path: edit_metadata(path, lambda tree: tree["metadata"].pop("state_index")), "state_index must map"),
        (
            lambda path: edit_metadata(path, lambda tree: tree["metadata"].update(state_index={"a/weights": "../x"})),
            "is not the name of a",
        ),
    ],
)
def test_a_bad_fast_llm_directory_leaves_nothing(
    factory: ModelFactory, tmp_path: Path, damage: Any, message: str
) -> None:
    source = tmp_path / "fast_llm"
    shutil.copytree(factory.converted("llama"), source)
    damage(source)
    with pytest.raises(HubTestsError, match=message) as caught:
        export(source, tmp_path / "target", "llama")
    assert "\n" not in str(caught.value)
    assert {path.name for path in tmp_path.iterdir()} <= {"fast_llm", "home"}


def test_requests_that_cannot_be_met_are_named(factory: ModelFactory, tmp_path: Path) -> None:
    request = convert_request(factory.source("llama"), tmp_path / "target", "llama")
    with pytest.raises(UnsupportedError, match="model_config 'multimodal'"):
        SUBJECT.convert(replace(request, model_config="multimodal"))
    with pytest.raises(UnsupportedError, match="model_type 'llama' is not of the format 'qwen2'"):
        SUBJECT.convert(replace(request, checkpoint_format="qwen2"))
    with pytest.raises(RequestError, match="exists"):
        SUBJECT.convert(replace(request, target=str(tmp_path)))
    with pytest.raises(UnsupportedError, match="export to float64"):
        export(factory.converted("llama"), tmp_path / "target", "llama", "float64")


def test_no_modelling_code_of_transformers_is_used() -> None:
    for path in Path(directories.__file__).parent.glob("*.py"):
        assert "import transformers" not in path.read_text()
        assert "from transformers" not in path.read_text()
