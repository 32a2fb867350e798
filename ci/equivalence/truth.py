"""The truth of one model, measured once: inputs, oracle traces and the reference's own noise in every dtype asked for.

Each variant of the subject then costs nothing but its own forward.
"""

from __future__ import annotations

import json
import shutil
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from ci.equivalence import inputs, routing
from ci.equivalence.floors import Limits, floors, noise_variants, untrusted
from ci.equivalence.inputs import Case, Needs
from ci.equivalence.oracle import TrueFloat64
from ci.equivalence.spent import Spent
from ci.equivalence.turns import Turns
from ci.equivalence.walk import TOP_EXPERTS, Walk, Walked, cut
from ci.errors import RequestError, SubjectError
from ci.models import TestParams
from ci.subjects.base import DType, TraceRequest
from ci.subjects.hugging_face import HuggingFace
from ci.subjects.memory import free_memory, weight_bytes
from ci.subjects.trace_files import TraceReader

EXPERTS_GROW = (2, 4, 8)
"""By how much the batch grows, in turn, until every expert has received a token."""
BATCHED_EXPERTS = "batched_mm"
"""Copies each token's experts: beyond any memory for a production model, so it is no source of noise here."""


@dataclass
class Truth:
    """Hugging Face's side of the comparison for one checkpoint directory, traced on first use and kept on disk."""

    checkpoint: Path
    params: TestParams
    hugging_face: HuggingFace
    device: str
    workdir: Path
    seed: int = inputs.SEED
    spent: Spent = field(default_factory=Spent)
    _oracles: dict[str, TraceReader] = field(default_factory=dict)
    _feeds: dict[str, TraceReader] = field(default_factory=dict)
    _limits: dict[tuple[str, DType, bool], Limits] = field(default_factory=dict)
    _cases: tuple[Case, ...] = ()
    _experts_idle: int | None = None
    _silent: dict[str, str] = field(default_factory=dict)
    turns: Turns = field(init=False)

    def __post_init__(self) -> None:
        """Nothing runs yet."""
        self.turns = Turns(self.device)

    @cached_property
    def config(self) -> dict[str, Any]:
        """The checkpoint's config.json."""
        try:
            found = json.loads((self.checkpoint / "config.json").read_bytes())
        except (OSError, ValueError) as problem:
            raise RequestError(f"{self.checkpoint / 'config.json'}: cannot be read: {problem}") from None
        return dict(found)

    @cached_property
    def needs(self) -> Needs:
        """What the inputs must reach."""
        return inputs.needs_of(self.config)

    @cached_property
    def model_dtype(self) -> DType:
        """The dtype that the checkpoint was published in."""
        return inputs.published_dtype(self.config)

    @cached_property
    def oracle_dtype(self) -> DType:
        """float64 where twice the float32 weights fit in half of the free memory, else float32."""
        return "float64" if self.float64_bytes < self.free_bytes / 2 else "float32"

    @cached_property
    def float64_bytes(self) -> int:
        """What the weights take in float64, from what they take on disk in the published dtype."""
        return weight_bytes(self.checkpoint, 8, stored=4 if self.model_dtype == "float32" else 2)

    @cached_property
    def free_bytes(self) -> int:
        """Free memory of the device before anything was loaded."""
        return free_memory(self.device)

    @property
    def cases(self) -> tuple[Case, ...]:
        """The inputs, the batch grown until every expert is routed to."""
        if not self._cases:
            text = inputs.text_ids(self.checkpoint, self.needs.vocabulary)
            found = inputs.cases(self.needs, self.params, text=text, free_bytes=self.free_bytes, seed=self.seed)
            self._cases = self._routed_to_all(found) if self.needs.experts else found
        return self._cases

    def coverage(self) -> dict[str, str]:
        """What the inputs reach, and what they do not."""
        said = inputs.coverage(self.needs, self.cases, free_bytes=self.free_bytes)
        if self.needs.experts:
            said["experts"] = self._routed()
        if self._silent:
            said["noise"] = f"Hugging Face does not run {'; '.join(self._silent)} here: its noise is not in the floor"
        said["oracle"] = f"Hugging Face in {self.oracle_dtype}, transformers {version('transformers')}"
        if self.oracle_dtype != "float64":
            said["oracle"] += f": float64 does not fit in {self.free_bytes / 1e9:.1f} GB of free memory"
        return said

    def _routed(self) -> str:
        if self._experts_idle is None:
            return "not covered: Hugging Face's choice of experts is not captured, so nobody knows which were used"
        if self._experts_idle:
            return f"not covered: {self._experts_idle} received no token"
        return f"each of {self.needs.experts} in every layer received a token"

    def input_file(self, case: Case) -> Path:
        """The case as a TraceRequest's inputs file."""
        file = self.workdir / f"{case.name}-{case.ids.shape[0]}.safetensors"
        if not file.exists():
            self.workdir.mkdir(parents=True, exist_ok=True)
            tensors = {"input_ids": case.ids, **({} if case.mask is None else {"attention_mask": case.mask})}
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file)
        return file

    def oracle(self, case: Case) -> TraceReader:
        """The expected trace of a case; a part of another case shares that one's."""
        name = case.of or case.name
        if name not in self._oracles:
            whole = next(c for c in self._cases if c.name == name) if case.of else case
            variant = {"attention": "eager" if self._eager_fits(whole) else "sdpa", "batch": "together"}
            self._oracles[name] = self.trace(whole, self.oracle_dtype, variant, f"oracle-{name}")
        return self._oracles[name]

    def feed(self, case: Case) -> TraceReader:
        """The oracle's trace as a subject running `case` must be fed it: of a part, that part."""
        if not case.of:
            return self.oracle(case)
        if case.name not in self._feeds:
            self._feeds[case.name] = cut(self.oracle(case), case.part, self.workdir / f"feed-{case.name}")
        return self._feeds[case.name]

    def limits(self, case: Case, dtype: DType, *, fed: bool = False) -> Limits:
        """The limits of a case in a dtype; with `fed` those of blocks that were each fed the oracle's input."""
        if (case.name, dtype, fed) not in self._limits:
            whole = next(c for c in self.cases if c.name == (case.of or case.name))
            group = [c for c in self.cases if whole.name in (c.name, c.of)]
            noise = self._noise(whole, group, dtype, fed=fed)
            for of_case, walks in noise.items():
                together = [*walks, *noise[whole.name]]  # a part alone is too small a sample of the noise
                found = Limits(dtype, floors(together), self.params.compare_factor, untrusted(together, dtype))
                self._limits[of_case, dtype, fed] = found
        return self._limits[case.name, dtype, fed]

    def trace(
        self,
        case: Case,
        dtype: DType,
        variant: dict[str, str],
        name: str,
        *,
        feed: TraceReader | None = None,
        checkpoint: Path | None = None,
    ) -> TraceReader:
        """One forward of Hugging Face, of this checkpoint or another, into `workdir`/`name`."""
        output = self.workdir / name
        shutil.rmtree(output, ignore_errors=True)
        request = TraceRequest(
            checkpoint=str(checkpoint or self.checkpoint),
            inputs=str(self.input_file(case)),
            output=str(output),
            dtype=dtype,
            device=self.device,
            variant=variant,
            capture="all",
            feed=str(feed.path) if feed else None,
        )
        self.turns.take(self.hugging_face)
        with TrueFloat64() if dtype == "float64" else nullcontext():
            self.spent.ran(self.hugging_face.trace(request))
        return TraceReader(output)

    def _noise(self, whole: Case, group: list[Case], dtype: DType, *, fed: bool) -> dict[str, list[Walked]]:
        """Each legitimate variant against the oracle, over the case and its parts; one trace on disk at a time."""
        oracle = self.oracle(whole)
        walks: dict[str, list[Walked]] = {case.name: [] for case in group}
        for variant in self.variants(whole):
            try:
                trace = self.trace(whole, dtype, variant, "noise", feed=oracle if fed else None)
            except SubjectError as refused:  # a kernel that this device or dtype lacks is one noise less
                self._silent[", ".join(f"{axis}={name}" for axis, name in variant.items())] = str(refused)[-120:]
                continue
            for case in group:
                walk = Walk(
                    *(trace, oracle, case.keep),
                    part=case.part,
                    mine=case.part,
                    full=False,
                    carry=not fed,
                    device=self.device,
                )
                with self.spent.comparing():
                    walks[case.name].append(walk.run())
            shutil.rmtree(trace.path)
        if not any(walks.values()):
            raise SubjectError(f"Hugging Face: no variant runs in {dtype}: {'; '.join(self._silent.values())}")
        return walks

    def variants(self, case: Case) -> tuple[dict[str, str], ...]:
        """The legitimate Hugging Face variants whose spread is the noise for a case."""
        offered = [v for v in self.hugging_face.variants(str(self.checkpoint)) if v.name != BATCHED_EXPERTS]
        if not self._eager_fits(case):
            offered = [v for v in offered if v.name != "eager" or v.axis != "attention"]
        return noise_variants(offered)

    def _eager_fits(self, case: Case) -> bool:
        """Whether every head's (T, T) scores, three times in float64, take less than a tenth of the free memory."""
        rows, length = case.ids.shape
        return 24 * rows * self.needs.heads * length**2 < self.free_bytes / 10

    @cached_property
    def fingerprint(self) -> float | None:
        """One number for the direction of the oracle's logits; None where the oracle is itself noisy.

        It moves when Hugging Face's answer to the same inputs does.
        """
        if self.oracle_dtype != "float64":
            return None
        logits = self.oracle(self.cases[0]).tensor("logits")[self.cases[0].keep].double()
        tokens, words = (torch.arange(size, dtype=torch.float64).cos() for size in logits.shape)
        return float(tokens @ logits @ words / logits.norm())

    def _routed_to_all(self, found: tuple[Case, ...]) -> tuple[Case, ...]:
        """Grow the batch until no expert of any layer is idle in the oracle; the last attempt stands."""
        batch, *rest = found
        for factor in (1, *EXPERTS_GROW):
            self._oracles.pop("batch", None)
            attempt = inputs.grown(batch, self.needs, factor) if factor > 1 else batch
            self._experts_idle = self._idle(self.oracle(attempt), attempt.keep)
            if not self._experts_idle or attempt.ids.numel() * 2 > inputs.BATCH_TOKENS * 2:
                break
        again = inputs.alone(attempt)
        return (attempt, *(again if case.name == again.name else case for case in rest))

    def _idle(self, oracle: TraceReader, keep: torch.Tensor) -> int | None:
        """How many experts of all layers received no token; None where the routing was not captured."""
        names = [name for name in oracle if name.endswith(TOP_EXPERTS)]
        loads = [routing.loads(oracle.tensor(name), self.needs.experts, keep=keep) for name in names]
        return sum(int((load == 0).sum()) for load in loads) if loads else None
