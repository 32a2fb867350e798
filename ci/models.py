"""The registry of models: `models.toml` read into frozen, validated records."""

from __future__ import annotations

import fnmatch
import json
import re
import tomllib
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from ci.errors import RequestError
from ci.hub.layers import LayerRequest, format_layers
from ci.hub.repository import is_commit
from ci.hub.slices import WHOLE, Slice
from ci.known_refusals import KnownRefusal, find_refusal
from ci.known_refusals import list_problems as list_refusal_problems
from ci.records import STRICT
from ci.spelling import suggest_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

REGISTRY = Path(__file__).with_name("models.toml")
DEFAULT_GROUP = "default"
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
RESERVED = ("bisect", "cancel", "help")
"""Words of the comment command, which no model may be called."""
_CLASS_KEYS = ("checkpoint_format", "model_config")
_CLASS_NAME = re.compile(r"([A-Z]\w*?)(?:CheckpointFormat|ModelConfig)")
_WORD_BOUNDARY = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
MODEL_ID = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}")


@dataclass(frozen=True)
class TestParams:
    """Shape of the test input and the scale of its tolerances (1.0 unless the architecture justifies more)."""

    __pydantic_config__: ClassVar[Any] = STRICT
    __test__: ClassVar[bool] = False

    batch_size: int = 2
    sequence_length: int = 64
    compare_factor: float = 1.0


@dataclass(frozen=True)
class SubjectEnvironment:
    """The environment in which one subject is tested with a model: a name that hub-tests knows, or a TOML file."""

    __pydantic_config__: ClassVar[Any] = STRICT

    subject: str
    environment: str


Policy = Literal["warn", "strict"]
"""Whether a finding that does not change the forward pass is a warning or a failure."""


@dataclass(frozen=True)
class HubModel:
    """One entry of the registry. `checkpoint_format` and `model_config` are the subject's names.

    `export_policy`: whether what an export loses beside its weights is a warning or red ("strict"). `precision_policy`:
    the same for an operation that is right and less precise than it could be.
    `trust_remote_code`: transformers has not the model's code; it runs in a sandbox, in the environment
    `code_environment`, and comes from `code_path` in the subject's checkout, or from the model's own repository at
    the full commit `code_revision`.
    `dequantize`: the rule by which quantised weights are made plain before anything is compared; without it they are
    refused.
    `layers` are the indices of chosen layers, from 0; then `num_layers_to_keep` is how many they are. `slice` keeps
    only part of the vocabulary and of the experts. An `optional` entry runs only where its name or its group is asked
    for: not by `*`, and not by a bare `pytest`.
    `environments` name the environment of a subject that needs another one here than elsewhere, `known_refusals` what
    subjects are known to refuse: at most one for each subject.
    """

    __pydantic_config__: ClassVar[Any] = STRICT

    name: str
    model_id: str
    checkpoint_format: str
    model_config: str = "gpt"
    num_layers_to_keep: int | Literal["auto"] = 2
    groups: tuple[str, ...] = ()
    test_params: TestParams = field(default_factory=TestParams)
    revision: str | None = None
    gated: bool = False
    trust_remote_code: bool = False
    code_environment: str = ""
    code_path: str = ""
    code_revision: str = ""
    dequantize: Literal["", "fp8-blocks"] = ""
    export_policy: Policy = "warn"
    precision_policy: Policy = "warn"
    layers: tuple[int, ...] = ()
    slice: Slice = WHOLE
    optional: bool = False
    known_refusals: tuple[KnownRefusal, ...] = ()
    environments: tuple[SubjectEnvironment, ...] = ()

    def find_environment(self, subject: str) -> str | None:
        """Return the environment in which a subject is tested with this model; None for that of the run."""
        return next((own.environment for own in self.environments if own.subject == subject), None)

    def find_refusal(self, subject: str) -> KnownRefusal | None:
        """Return what a subject is known to refuse in this model; None where nothing is."""
        return find_refusal(self.known_refusals, subject)

    @property
    def layer_request(self) -> LayerRequest:
        """Which layers to keep: the chosen ones, a number of them, or auto."""
        return self.layers or self.num_layers_to_keep

    @property
    def part(self) -> str:
        """Which part of the model is kept, in words: `2`, `auto`, `0,3`, `2, vocab=4096`."""
        return ", ".join(filter(None, [format_layers(self.layer_request), str(self.slice)]))

    @property
    def subset(self) -> str:
        """What is kept other than the first layers whole, in words: `0,3`, `vocab=4096`; "" where nothing is."""
        picked = format_layers(self.layers) if self.layers else ""
        return ", ".join(filter(None, [picked, str(self.slice)]))


def override_part(model: HubModel, layers: LayerRequest | None = None, part: Slice | None = None) -> HubModel:
    """Return the entry with other layers, or another slice; None keeps what the registry says."""
    if isinstance(layers, tuple):
        model = replace(model, layers=layers, num_layers_to_keep=len(layers))
    elif layers is not None:
        model = replace(model, layers=(), num_layers_to_keep=layers)
    return model if part is None else replace(model, slice=part)


def describe_override(layers: LayerRequest | None, part: Slice | None) -> str:
    """Name what is kept instead of the registry's choice, like `4 layers, vocab=4096`; "" where nothing is."""
    picked = f"layers {format_layers(layers)}" if isinstance(layers, tuple) else f"{layers} layers"
    return ", ".join(filter(None, [picked if layers is not None else "", str(part) if part is not None else ""]))


def load_models(path: Path = REGISTRY) -> dict[str, HubModel]:
    """Read the registry at `path`: models by name, in the file's order.

    Raises RequestError that names file, entry and key, and a close spelling where there is one.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RequestError(f"{path}: cannot read the registry: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RequestError(f"{path}: not valid TOML: {error}") from None
    models = {name: parse_model(name, table, where=str(path)) for name, table in tables.items()}
    _check_duplicates(models.values(), where=str(path))
    return models


def parse_model(name: str, table: Any, *, where: str = "HUB_TEST_CONFIGS") -> HubModel:
    """Read one entry from a table.

    A class, or the name of a class, counts as the subject's name for it. The specification writes
    `"checkpoint_format": LlamaCheckpointFormat, "model_config": GPTModelConfig`, and Fast-LLM's classes have these
    names as attributes `name` and `model_name`. Where Fast-LLM cannot be imported, the name is made from the class's:
    `"LlamaCheckpointFormat"` is "llama", `"GPTModelConfig"` is "gpt".
    """
    where = f"{where}: [{name}]"
    if not NAME.fullmatch(name):
        raise RequestError(f"{where}: a name is lower-case letters, digits, '_' and '-', like 'qwen2-7b'")
    if name in RESERVED:
        raise RequestError(f"{where}: '{name}' is a word of the comment command; choose another name")
    if not hasattr(table, "keys"):
        raise RequestError(f"{where}: expected a table of keys, got {table!r}")
    entry = {key: _subject_name_of(value) if key in _CLASS_KEYS else value for key, value in table.items()}
    _check_keys(entry, HubModel, where=where, hidden={"name"})
    _check_keys(entry.get("test_params", {}), TestParams, where=f"{where} test_params")
    _check_keys(entry.get("slice", {}), Slice, where=f"{where} slice")
    for key, record in (("known_refusals", KnownRefusal), ("environments", SubjectEnvironment)):
        tables = entry.get(key, ())
        for one in tables if isinstance(tables, list | tuple) else ():
            _check_keys(one, record, where=f"{where} {key}")
    if isinstance(entry.get("layers"), list | tuple) and entry["layers"]:
        entry.setdefault("num_layers_to_keep", len(entry["layers"]))
    model = _validate({**entry, "name": name}, where=where)
    for problem in _list_problems(model):
        raise RequestError(f"{where}: {problem}")
    return model


def select_models(models: Mapping[str, HubModel], words: Iterable[str]) -> tuple[HubModel, ...]:
    """Select entries by name, pattern (`mistral*`) or group (`@moe`), in the registry's order.

    No words mean the default group. Raises RequestError for a word that selects nothing.
    """
    words = tuple(words) or (f"@{DEFAULT_GROUP}",)
    chosen = {name for word in words for name in _match_names(models, word)}
    return tuple(model for name, model in models.items() if name in chosen)


def _match_names(models: Mapping[str, HubModel], word: str) -> list[str]:
    if word.startswith("@"):
        names = [name for name, model in models.items() if word[1:] in model.groups]
        known = [f"@{group}" for group in sorted({group for model in models.values() for group in model.groups})]
    else:
        names = [name for name in models if fnmatch.fnmatchcase(name, word)]
        names = [name for name in names if not models[name].optional] or names
        known = list(models)
    if not names:
        kind = "group" if word.startswith("@") else "model"
        of_id = next((f" Did you mean '{name}'?" for name, one in models.items() if one.model_id == word), "")
        raise RequestError(f"no {kind} '{word}'.{of_id or suggest_name(word, known)} Known: {', '.join(known)}")
    return names


def _subject_name_of(value: Any) -> Any:
    if isinstance(value, type):
        return getattr(value, "name", None) or getattr(value, "model_name", None) or _subject_name_of(value.__name__)
    if isinstance(value, str) and (named := _CLASS_NAME.fullmatch(value)):
        return _WORD_BOUNDARY.sub("_", named[1]).lower()
    return value


def _check_keys(table: Any, record: type, *, where: str, hidden: frozenset[str] | set[str] = frozenset()) -> None:
    known = {f.name for f in fields(record)} - hidden
    for key in table if hasattr(table, "keys") else ():
        if key not in known:
            hint = suggest_name(str(key), known) or f" Known keys: {', '.join(sorted(known))}."
            raise RequestError(f"{where}: unknown key '{key}'.{hint}")


def _validate(entry: dict[str, Any], *, where: str) -> HubModel:
    from pydantic import TypeAdapter, ValidationError

    from ci.records import first_problem

    try:  # strict JSON mode refuses "2" for a number, but takes an array as a tuple and 2 as a float
        checked: HubModel = TypeAdapter(HubModel).validate_json(json.dumps(entry, default=repr), strict=True)
    except ValidationError as invalid:
        raise RequestError(f"{where}: {first_problem(invalid)}") from None
    return checked


def _list_problems(model: HubModel) -> Iterator[str]:
    """Yield what is not possible about each value, or about several together."""
    if not MODEL_ID.fullmatch(model.model_id):
        yield f"model_id: '{model.model_id}' is not a Hub id; expected 'org/name'"
    yield from _list_part_problems(model)
    yield from _list_code_problems(model)
    if len({own.subject for own in model.environments if own.subject and own.environment}) < len(model.environments):
        yield "environments: expected one table for each subject, with its name and its environment"
    yield from _list_test_problems(model.test_params)
    yield from list_refusal_problems(model.known_refusals)


def _list_part_problems(model: HubModel) -> Iterator[str]:
    number, layers = model.num_layers_to_keep, model.layers
    if number != "auto" and number < 1:
        yield f'num_layers_to_keep: {number} is not possible; expected 1 or more, or "auto"'
    if layers != tuple(sorted(set(layers))) or min(layers, default=0) < 0:
        yield f"layers: {list(layers)} is not possible; expected indices from 0, ascending, like [0, 3]"
    if layers and number != len(layers):
        yield f"layers: {len(layers)} are named, and num_layers_to_keep is {number}; drop one key"
    if any(size is not None and size < 1 for size in (model.slice.vocab, model.slice.experts)):
        yield f"slice: {model.slice} is not possible; expected 1 or more"


def _list_code_problems(model: HubModel) -> Iterator[str]:
    path, revision = Path(model.code_path), model.code_revision
    if path.is_absolute() or ".." in path.parts:
        yield f"code_path: '{model.code_path}' is not possible; expected a directory below the subject's checkout"
    if revision and not is_commit(revision):
        yield f"code_revision: '{revision}' is not possible; expected a full commit of 40 hex digits"
    if model.code_path and revision:
        yield "code_path and code_revision exclude each other"
    if (model.code_environment or model.code_path or revision) and not model.trust_remote_code:
        yield "code_environment, code_path and code_revision need trust_remote_code = true"


def _list_test_problems(params: TestParams) -> Iterator[str]:
    if params.batch_size < 1:
        yield f"test_params.batch_size: {params.batch_size}; expected 1 or more"
    if params.sequence_length < 2:
        yield f"test_params.sequence_length: {params.sequence_length}; expected 2 or more"
    if not 1 <= params.compare_factor <= 2:
        yield f"test_params.compare_factor: {params.compare_factor}; expected 1.0 to 2.0"


def _check_duplicates(models: Iterable[HubModel], *, where: str) -> None:
    seen: dict[tuple[object, ...], str] = {}
    for model in models:
        key = (model.model_id, model.revision, model.checkpoint_format, model.layer_request, model.slice)
        if other := seen.get(key):
            raise RequestError(f"{where}: [{model.name}] duplicates [{other}]: same model_id, revision and layers")
        seen[key] = model.name


class Registry(dict[str, Any]):
    """`HUB_TEST_CONFIGS`: name to table, so that `HUB_TEST_CONFIGS["name"] = {…}` in Python works too."""

    def model(self, name: str) -> HubModel:
        """Return the validated record of the entry `name`."""
        if name not in self:
            raise RequestError(f"no model '{name}'.{suggest_name(name, self)} Known: {', '.join(self)}")
        value = self[name]
        return value if isinstance(value, HubModel) else parse_model(name, value)

    def models(self) -> dict[str, HubModel]:
        """Return every entry as a validated record."""
        return {name: self.model(name) for name in self}


HUB_TEST_CONFIGS = Registry(load_models())
