"""What a subject offers, known before anything heavy is imported: the plan and the test ids are made from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ci.layouts import LAYOUT_AXIS
from ci.subjects.base import Variant

PROTOCOL = 1
"""The version of the protocol between hub-tests and an adapter; it counts up when an old adapter cannot go on."""
NO_EXPERTS = "a mixture of experts"
"""What a dense model lacks to run a variant of the axis "moe"."""
NO_ATTENTION = "attention in some block"
"""What a model of recurrences alone lacks to run a variant of the axis "attention"."""


@dataclass(frozen=True)
class SubjectOffer:
    """The checkpoint formats of a subject, its variants, and the package that must be importable to run it.

    `variants` lists each axis's default first where the default is fixed, and `needs` of a Variant names what it cannot
    run without on any machine ("cuda", or a library as `describe` calls it). `axis_formats` names the formats of an
    axis that only some formats have. `conditional_needs` maps `axis=name` to what only some machines or models lack for
    it. The report accepts no other reason for a variant that did not run. `dense_formats` are those of the formats with
    the axis "moe" that also have models without experts: there the suite itself names the need NO_EXPERTS; in formats
    with the axis "mixer" it names NO_ATTENTION.
    With `in_this_package` the subject's code is a part of `ci`: a checkout of it brings its own worker program.
    A subject that does not convert (`converts`) reads Hugging Face's directory itself; one that does not export
    (`exports`) writes none. `fast_llm_checkpoints` says that its checkpoints are in Fast-LLM's format, which the
    reference reads: then a wrong conversion is told from a wrong kernel. `protocol` is the version it was written for.
    `layouts` are those of `ci.layouts` in which it runs whole training steps, none where it runs no steps;
    `conditional_needs` has what only some models or machines lack for `layout=name`.
    What holds for one checkpoint on one machine is answered by `Subject.variants`; a test compares the two.
    """

    name: str
    package: str
    formats: tuple[str, ...]
    variants: tuple[Variant, ...]
    axis_formats: Mapping[str, frozenset[str]] = field(default_factory=dict)
    conditional_needs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    dense_formats: frozenset[str] = frozenset()
    in_this_package: bool = False
    gradients: bool = True
    layouts: tuple[str, ...] = ()
    converts: bool = True
    exports: bool = True
    fast_llm_checkpoints: bool = False
    protocol: int = PROTOCOL

    def names(self, axis: str) -> tuple[str, ...]:
        """Return the names of every variant on an axis."""
        return tuple(variant.name for variant in self.variants if variant.axis == axis)

    def conditional_needs_of(self, checkpoint_format: str) -> Mapping[str, tuple[str, ...]]:
        """Return what only some machines, or some models of this format, lack for a variant."""
        lacking = {"moe": NO_EXPERTS} if checkpoint_format in self.dense_formats else {}
        lacking |= {"attention": NO_ATTENTION} if checkpoint_format in self.axis_formats.get("mixer", ()) else {}
        needs = dict(self.conditional_needs)
        for variant in self.variants:
            if variant.axis in lacking:
                key = f"{variant.axis}={variant.name}"
                needs[key] = (*needs.get(key, ()), lacking[variant.axis])
        return needs

    @property
    def layout_variants(self) -> tuple[Variant, ...]:
        """The layouts of more than one process or micro-batch, as variants of a test each."""
        return tuple(Variant(LAYOUT_AXIS, name) for name in self.layouts if name != "single")

    def variants_of(self, checkpoint_format: str) -> tuple[Variant, ...]:
        """Return the variants that a model of this format has."""
        return tuple(
            variant
            for variant in self.variants
            if variant.axis not in self.axis_formats or checkpoint_format in self.axis_formats[variant.axis]
        )
