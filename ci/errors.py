"""The one fatal error type. An expected failure is one line: what, where, what to do next."""

from __future__ import annotations

from typing import Literal


class HubTestsError(Exception):
    """An expected failure; `str()` of it is the one line that people read, `exit_code` the process's answer."""

    exit_code = 2


class RequestError(HubTestsError):
    """The request or the configuration is wrong: exit code 2."""

    exit_code = 2


class GatedError(RequestError):
    """The repository is gated, and the token is missing or its user has no access."""


class OwnLimitError(RequestError):
    """A limit of hub-tests itself: no fault of the Hub, the model or the subject.

    `failure_class` says which, for machines; it is also the key of `checkpoints.json`.
    """

    failure_class: Literal["not_truncatable", "remote_code", "quantized"] = "not_truncatable"


class NotTruncatableError(OwnLimitError):
    """hub-tests cannot truncate or slice this model yet."""


class RemoteCodeError(OwnLimitError):
    """The model runs code of its own, and has no sandbox for it, or no pinned commit."""

    failure_class = "remote_code"


class QuantizedError(OwnLimitError):
    """The weights are quantised, and the entry names no rule that makes them plain."""

    failure_class = "quantized"


class InfrastructureError(HubTestsError):
    """The Hub, the disk, the GPU or GitHub failed, not what is under test: exit code 3."""

    exit_code = 3


class SubjectError(HubTestsError):
    """The subject refused, crashed, hung or answered nonsense: a finding about it, exit code 1.

    `failure` says which, for machines: unsupported, not_offered, error, crash, timeout, out_of_memory or protocol.
    """

    exit_code = 1
    failure = "error"


class UnsupportedError(SubjectError):
    """The subject refuses a format, an architecture or a config value by name."""

    failure = "unsupported"


class NotOfferedError(UnsupportedError):
    """The subject lacks an optional part of the protocol: nothing was tried, so nothing is said about it."""

    failure = "not_offered"


class NotComparedError(NotOfferedError):
    """Hugging Face's side cannot run what is to be compared: no fault of the subject, and nothing is said about it.

    Not where that side's code is of the commit under test.
    """


class TerminatedError(KeyboardInterrupt):
    """The process was told to end (SIGTERM), as a cancelled job is; its children were not told."""
