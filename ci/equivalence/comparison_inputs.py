"""What the checks of one converted model compare, and where they run and write."""

from __future__ import annotations

from dataclasses import dataclass

from ci.models import HubModel


@dataclass(frozen=True)
class ComparisonInputs:
    """What is compared: the Hugging Face checkpoint, the subject's conversion of it, where to run and to write."""

    model: HubModel
    hf_path: str
    subject_path: str
    device: str = "cpu"
    workdir: str = "."

    @property
    def formats(self) -> tuple[str, str]:
        """The checkpoint format and the model config, as the subject calls them."""
        return self.model.checkpoint_format, self.model.model_config
