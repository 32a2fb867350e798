"""`hub-tests doctor`: can this host run GPU tests?

probe_host (reads the machine) → HostState → check_host (pure) → checks → Diagnosis → table or JSON.
"""

from __future__ import annotations

from ci.doctor.diagnosis import check_host, diagnose, probe_host, run_doctor
from ci.doctor.identity import read_host_identity
from ci.doctor.records import Check, Diagnosis, DoctorRequest, HostState

__all__ = [
    "Check",
    "Diagnosis",
    "DoctorRequest",
    "HostState",
    "check_host",
    "diagnose",
    "probe_host",
    "read_host_identity",
    "run_doctor",
]
