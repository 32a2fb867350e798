"""The protocol of a subject, version 1: what an adapter answers, and the records that travel.

`docs/adapters.md` explains it; `ci.subjects.base` has every record, tensor name and shape. It needs no library.
"""

from ci.errors import RequestError, SubjectError, UnsupportedError
from ci.layouts import LAYOUTS, Layout
from ci.subjects.base import (
    ConvertRequest,
    ConvertResult,
    Description,
    DevicePreparable,
    Differentiable,
    DType,
    ExportRequest,
    GradientRequest,
    GradientResult,
    Preparable,
    Subject,
    TraceRequest,
    TraceResult,
    Variant,
)
from ci.subjects.offer import PROTOCOL, SubjectOffer
from ci.subjects.provenance import installed_versions, python_version
from ci.subjects.training import OptimizerSettings, RankReport, Trainable, TrainRequest, TrainResult
from ci.subjects.written_files import list_written

__all__ = [
    "LAYOUTS",
    "PROTOCOL",
    "ConvertRequest",
    "ConvertResult",
    "DType",
    "Description",
    "DevicePreparable",
    "Differentiable",
    "ExportRequest",
    "GradientRequest",
    "GradientResult",
    "Layout",
    "OptimizerSettings",
    "Preparable",
    "RankReport",
    "RequestError",
    "Subject",
    "SubjectError",
    "SubjectOffer",
    "TraceRequest",
    "TraceResult",
    "TrainRequest",
    "TrainResult",
    "Trainable",
    "UnsupportedError",
    "Variant",
    "installed_versions",
    "list_written",
    "python_version",
]
