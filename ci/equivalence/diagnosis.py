"""From the first wrong tensor and the shape of its error to one sentence that names a suspect."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ci.equivalence.suspects import join_numbers
from ci.equivalence.tensor_location import TensorLocation, describe_operation
from ci.tensor_names import is_block_level, scope_of, vision_layer_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ci.evidence import Measure


@dataclass(frozen=True)
class Diagnosis:
    """The parts of the sentence. `component` is the faulty one.

    `measured` says that an error was measured, so that the tensor is named. How large it is, only the measures say:
    a second figure here, of another run or in another unit, would contradict the one of every table.

    `reason` is the evidence against it. `others` are further locations that are wrong although their input was right.
    """

    location: TensorLocation
    suspect: str
    measured: bool
    component: str = ""
    reason: str = ""
    others: tuple[TensorLocation, ...] = ()

    def __str__(self) -> str:
        component = f" [{self.component}]" if self.component else ""
        reason = f"; {self.reason}" if self.reason else ""
        others = f"; also wrong on right input: {_group_by_operation(self.others)}" if self.others else ""
        tensor = self.location.tensor
        first = f"; first wrong tensor {tensor}" if self.measured else ""
        return f"{self.location}{component}: {self.suspect}{first}{reason}{others}"


def _group_by_operation(locations: Sequence[TensorLocation]) -> str:
    """Return text such as `query in layer 1, 2, 3, key in vision block 0, final norm`."""
    numbers: dict[tuple[str, str], list[int]] = {}
    for location in locations:
        vision = vision_layer_of(location.tensor)
        stack, number = ("layer", location.layer) if vision is None else ("vision block", vision)
        key = describe_operation(location.tensor), "" if number is None else stack
        numbers.setdefault(key, []).extend([] if number is None else [number])
    return ", ".join(f"{name} in {stack} {join_numbers(n)}" if stack else name for (name, stack), n in numbers.items())


def first_failure_per_block(measures: Sequence[Measure]) -> list[Measure]:
    """Return the first failed tensor of each scope: teacher-forced blocks, the embeddings, the head."""
    first: dict[str, Measure] = {}
    for measure in measures:
        if not measure.passed:
            first.setdefault(scope_of(measure.tensor), measure)
    return list(first.values())


def describe_growth(measures: Sequence[Measure]) -> str:
    """Return the curve of error over floor by block.

    A jump is a fault, a slow rise is noise.
    """
    blocks = [measure for measure in measures if is_block_level(measure.tensor)]
    step = max(1, len(blocks) // 12)
    return "error over floor by layer: " + " ".join(f"{m.ratio or 0:.2g}" for m in blocks[::step])
