"""Single runs of Hugging Face over one checkpoint: forward and backward passes, and which variants it offers."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import save_file

from ci.equivalence.device_usage import CostMeter, DeviceLease
from ci.errors import NotComparedError, SubjectError, UnsupportedError
from ci.subjects.base import HuggingFaceRunner, TraceRequest
from ci.subjects.failure import SubjectOutOfMemoryError
from ci.subjects.trace_files import TraceReader

if TYPE_CHECKING:
    from ci.equivalence.inputs import InputCase
    from ci.subjects.base import DType, GradientRequest


@dataclass(frozen=True)
class ReferenceRunner:
    """Runs Hugging Face's side over `checkpoint` when it is asked to; what it writes lies in `workdir`."""

    checkpoint: Path
    hugging_face: HuggingFaceRunner
    device: str
    workdir: Path
    lease: DeviceLease
    costs: CostMeter

    def write_inputs(self, case: InputCase) -> Path:
        """Write the case as the inputs file of a TraceRequest, once."""
        file = self.workdir / f"{case.name}-{case.ids.shape[0]}.safetensors"
        if not file.exists():
            self.workdir.mkdir(parents=True, exist_ok=True)
            tensors = {"input_ids": case.ids, **({} if case.mask is None else {"attention_mask": case.mask})}
            tensors |= case.images.to_tensors() if case.images else {}
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file)
        return file

    def choose_variant(self, attention: str) -> dict[str, str]:
        """Return the variant that runs a whole batch with this attention, where there is one."""
        offered = {(v.axis, v.name) for v in self.hugging_face.variants(str(self.checkpoint))}
        wanted = {"attention": attention, "batch": "together"}
        return {axis: name for axis, name in wanted.items() if (axis, name) in offered}

    def resolve_config(self) -> dict[str, Any]:
        """Return the checkpoint's config.json as Hugging Face's side understands it."""
        return dict(self.hugging_face.resolve_config(str(self.checkpoint)))

    def run_trace(
        self,
        case: InputCase,
        dtype: DType,
        variant: dict[str, str],
        name: str,
        *,
        teacher: TraceReader | None = None,
        checkpoint: Path | None = None,
    ) -> TraceReader:
        """Run one forward pass of Hugging Face, of this checkpoint or another, into `workdir`/`name`."""
        output = self.workdir / name
        shutil.rmtree(output, ignore_errors=True)
        request = TraceRequest(
            checkpoint=str(checkpoint or self.checkpoint),
            inputs=str(self.write_inputs(case)),
            output=str(output),
            dtype=dtype,
            device=self.device,
            variant=variant,
            capture="all",
            feed=str(teacher.path) if teacher else None,
        )
        self.lease.acquire(self.hugging_face)
        self.costs.run_trace(f"Hugging Face {dtype}", lambda: self.hugging_face.trace(request))
        return TraceReader(output)

    def run_gradients(self, request: GradientRequest) -> Path:
        """Run one backward pass of Hugging Face; return the directory of gradients.

        Raises what `explain_failure` makes of a failure.
        """
        self.lease.acquire(self.hugging_face)
        with self.costs.clock.measure("forward", f"Hugging Face {request.dtype} gradients"):
            try:
                self.hugging_face.gradients(request)
            except SubjectError as failed:
                raise explain_failure(self.hugging_face, "has no gradients of this model", failed) from failed
        return Path(request.output)


def explain_failure(side: HuggingFaceRunner, what: str, failed: SubjectError) -> SubjectError:
    """Return what a failed backward pass or step of Hugging Face's side says of the subject.

    Code that the tested commit brings must train what it computes: its failure stays one, of the same class. Code of
    transformers or of the Hub is no commit's fault, nor is the memory for float64: NotComparedError.
    """
    if not side.runs_code_under_test() or isinstance(failed, SubjectOutOfMemoryError):
        return NotComparedError(f"Hugging Face's side {what}: {failed}")
    kind = SubjectError if isinstance(failed, UnsupportedError) else type(failed)
    return kind(f"the modelling code of the tested commit {what}: {failed}")
