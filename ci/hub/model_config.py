"""Parse config.json: the depth of the model, and every field that depends on its layers. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ci.errors import NotTruncatableError, RequestError
from ci.hub import truncation_rules
from ci.hub.architectures import UNKNOWN, Architecture, find_architecture
from ci.hub.config_edit import KeyPath, Node, find_node, parse_json
from ci.hub.config_numbers import MAX_LAYERS, check_sizes, read_optional_count, shorten_value
from ci.hub.truncation_rules import FIELD_RULES, MTP_LAYER_COUNT, Rule

if TYPE_CHECKING:
    from collections.abc import Iterator

StackSide = Literal["text", "encoder", "decoder"]
DEPTH_FIELDS_BY_SIDE: tuple[tuple[StackSide, tuple[str, ...]], ...] = (
    ("text", truncation_rules.DEPTH_FIELDS),
    ("encoder", truncation_rules.ENCODER_DEPTH_FIELDS),
    ("decoder", truncation_rules.DECODER_DEPTH_FIELDS),
)

WHOLE_OBJECTS = (Rule.UNCHANGED, Rule.NAMES)
"""Rules of objects in which no field is about layers."""
PERIODS = (Rule.PERIOD, Rule.PERIOD_OF_TENSORS)


@dataclass(frozen=True)
class LayerStack:
    """A stack of layers: its depth and the fields that hold it. A decoder-only model has one, "text"."""

    side: StackSide
    depth: int
    fields: tuple[KeyPath, ...]


@dataclass(frozen=True)
class LayerField:
    """A field about layers: its path, value and rule, and the depth that it goes with.

    `distinguishes_layers`: layers may differ by it.
    """

    path: KeyPath
    value: Any
    rule: Rule
    depth: int
    distinguishes_layers: bool = True


@dataclass(frozen=True)
class ModelConfig:
    """A parsed config.json: its text, its stacks of layers, and every field that a rule covers.

    `text_configs` are the objects that hold the text model's fields. `mtp_layers` counts the layers of multi-token
    prediction that follow the last layer.
    """

    text: str
    root: Node
    what: str
    stacks: tuple[LayerStack, ...]
    fields: tuple[LayerField, ...]
    text_configs: tuple[KeyPath, ...] = ((),)
    architecture: Architecture = UNKNOWN
    mtp_layers: int = 0

    @property
    def depth(self) -> int:
        """Layers of the deepest stack."""
        return max(stack.depth for stack in self.stacks)

    @property
    def model_type(self) -> str:
        """The model type of the text model, "" where the config has none."""
        named = (find_node(self.root, path).value.get("model_type") for path in (*self.text_configs[::-1], ()))
        return next((name for name in named if isinstance(name, str)), "")


def parse_config(text: str, *, what: str) -> ModelConfig:
    """Find the depth and every field that depends on it.

    Raises RequestError when there is no depth or no single one, or when a number is too large for a size;
    InfrastructureError when the text is not JSON.
    """
    root = parse_json(text, what=what)
    check_sizes(root.value, what=what)
    text_configs = _find_text_configs(root, what)
    stacks = _find_stacks(root, text_configs, what)
    depth = max(stack.depth for stack in stacks)
    fields = [
        field
        for text_config in text_configs
        for field in _find_layer_fields(find_node(root, text_config), text_config, depth)
    ]
    values = [find_node(root, path).value for path in text_configs]
    types = [value.get("model_type") for value in (*values, root.value)]
    mtp = (read_optional_count(value, MTP_LAYER_COUNT, what=what, limit=MAX_LAYERS) or 0 for value in values)
    return ModelConfig(
        text, root, what, stacks, tuple(fields), text_configs, find_architecture(*types), max(mtp, default=0)
    )


def _find_text_configs(root: Node, what: str) -> tuple[KeyPath, ...]:
    """Find the objects that hold the text model's depth.

    They are the whole config, a nested one, or both.
    """
    paths = [path for path, node in _walk_objects(root, ()) if _find_depth_keys(node) or _count_listed_layers(node)]
    if not paths:
        raise NotTruncatableError(
            f"{what}: hub-tests cannot truncate this yet: no field says how many layers the model has (such as "
            "num_hidden_layers); add its name to ci/hub/truncation_rules.py"
        )
    if () in paths:
        copies = [path for path in paths if path and _read_depths(find_node(root, path)) == _read_depths(root)]
        return ((), *copies)
    if len(paths) > 1:
        paths = [path for path in paths if path in truncation_rules.TEXT_CONFIG_PATHS] or paths
    if len(paths) > 1:
        names = ", ".join(".".join(path) for path in paths)
        raise NotTruncatableError(
            f"{what}: hub-tests cannot truncate this yet: several stacks of layers ({names})"[:500]
        )
    return (paths[0],)


def _walk_objects(node: Node, path: KeyPath) -> Iterator[tuple[KeyPath, Node]]:
    yield path, node
    for key, member in (node.members or {}).items():
        if (
            member.members is not None
            and not truncation_rules.OTHER_MODALITY.search(key)
            and FIELD_RULES.get(key) not in WHOLE_OBJECTS
        ):
            yield from _walk_objects(member, (*path, key))


def _find_stacks(root: Node, text_configs: tuple[KeyPath, ...], what: str) -> tuple[LayerStack, ...]:
    sides: dict[StackSide, dict[KeyPath, int]] = {}
    for text_config in text_configs:
        node = find_node(root, text_config)
        has_decoder = any(key in truncation_rules.DECODER_DEPTH_FIELDS for key in _find_depth_keys(node))
        for key in _find_depth_keys(node):
            side = next(side for side, names in DEPTH_FIELDS_BY_SIDE if key in names)
            side = "encoder" if side == "text" and has_decoder else side
            sides.setdefault(side, {})[(*text_config, key)] = _read_depth(node, key, what)
    if not sides:
        listed = _count_listed_layers(find_node(root, text_configs[0]))
        return (
            LayerStack("text", _check_depth(listed, f"the length of {truncation_rules.DEPTH_LIST_FIELD}", what), ()),
        )
    for depths in sides.values():
        if len(set(depths.values())) > 1:
            names = ", ".join(f"{'.'.join(path)} = {depth}" for path, depth in depths.items())
            raise RequestError(f"{what}: contradictory depths: {names}; report it to the owner of the model")
    return tuple(LayerStack(side, next(iter(depths.values())), tuple(depths)) for side, depths in sides.items())


def _read_depth(node: Node, key: str, what: str) -> int:
    value = node.value[key]
    if type(value) is not int or value < 1:
        raise RequestError(f"{what}: {key} is {shorten_value(value)}, expected a number of layers")
    return _check_depth(value, key, what)


def _check_depth(depth: int, key: str, what: str) -> int:
    if depth > MAX_LAYERS:
        raise RequestError(f"{what}: {key} is {shorten_value(depth)}, hub-tests accepts at most {MAX_LAYERS} layers")
    return depth


def _count_listed_layers(node: Node) -> int:
    kinds = node.value.get(truncation_rules.DEPTH_LIST_FIELD)
    return len(kinds) if isinstance(kinds, list) else 0


def _find_depth_keys(node: Node) -> list[str]:
    named = [key for _, names in DEPTH_FIELDS_BY_SIDE for key in names if node.value.get(key) is not None]
    beside = truncation_rules.AMBIGUOUS_DEPTH_FIELDS
    return [key for key in named if key not in beside or any(other in node.value for other in beside[key])]


def _read_depths(node: Node) -> list[Any]:
    return [node.value[key] for key in _find_depth_keys(node)]


def _find_layer_fields(node: Node, text_config: KeyPath, depth: int) -> Iterator[LayerField]:
    if period := _find_implied_period(node):
        yield LayerField((*text_config, f"every {period} layers"), period, Rule.PERIOD, depth)
    for key, member in (node.members or {}).items():
        path = (*text_config, key)
        rule = FIELD_RULES.get(key)
        if rule is not None:
            yield LayerField(
                path, member.value, _refine_rule(rule, member.value), depth, _distinguishes_layers(key, rule, node)
            )
        elif member.members is not None and not _has_numbered_keys(member.value):
            if not truncation_rules.OTHER_MODALITY.search(key) and not _find_depth_keys(member):
                yield from _find_layer_fields(member, path, depth)
        elif key not in _find_depth_keys(node) and _looks_per_layer(key, member.value, depth):
            yield LayerField(path, member.value, Rule.UNKNOWN, depth)


def _find_implied_period(node: Node) -> int | None:
    has_period = any(FIELD_RULES.get(key) is Rule.PERIOD and value for key, value in node.value.items())
    if has_period or isinstance(node.value.get("layer_types"), list):
        return None
    return find_architecture(node.value.get("model_type")).period or None


def _distinguishes_layers(key: str, rule: Rule, node: Node) -> bool:
    """Return whether layers may differ by a field.

    Some fields count only where another field enables them, and a period only where no list writes it out.
    """
    if key in truncation_rules.ENABLED_BY:
        return bool(node.value.get(truncation_rules.ENABLED_BY[key]))
    return rule not in PERIODS or not isinstance(node.value.get("layer_types"), list)


def _refine_rule(rule: Rule, value: Any) -> Rule:
    """Return the rule of a value.

    Some fields are a period in one model and a list with one value a layer in the next.
    """
    return Rule.VALUE_PER_LAYER if rule in PERIODS and isinstance(value, list) else rule


def _looks_per_layer(key: str, value: Any, depth: int) -> bool:
    if isinstance(value, list) and value:
        numbers = all(type(item) is int and 0 <= item < depth for item in value)
        return (
            len(value) == depth
            or bool(truncation_rules.LAYER_WORDS.search(key))
            or (numbers and bool(truncation_rules.INDEX_WORDS.search(key)))
        )
    if isinstance(value, dict):
        return _has_numbered_keys(value)
    if isinstance(value, str):
        return len(value) == depth and ("pattern" in key or bool(truncation_rules.LAYER_WORDS.search(key)))
    return type(value) is int and value > 0 and bool(truncation_rules.COUNT_WORDS.search(key))


def _has_numbered_keys(value: dict[str, Any]) -> bool:
    return bool(value) and all(key.isdecimal() for key in value)
