"""What a host hands to its jobs is there, whole, and not theirs to change."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ci.doctor import DoctorRequest, check_host, provision_checks
from ci.doctor.provision_checks import check_provisions, read_provisions
from ci.nvml import Gpu
from tests.ci.doctor.scenes import by_name, state

if TYPE_CHECKING:
    from ci.doctor.records import ProbeAnswer

PAIR = (Gpu(0, minor=3), Gpu(1, minor=None))


def read(environ: dict[str, str]) -> dict[str, ProbeAnswer]:
    return dict(read_provisions(environ, ()))


def test_nothing_is_asked_where_nothing_is_named() -> None:
    assert read_provisions({}, (Gpu(0),)) == ()


@pytest.mark.parametrize(
    ("variable", "check", "file"),
    [
        ("HUB_TESTS_SHARED_ENVIRONMENTS", "environments", "mine-1/environment.json"),
        ("UV_FIND_LINKS", "wheels", "torch-2-py3-none-any.whl"),
        ("PIP_FIND_LINKS", "wheels", "torch-2-py3-none-any.whl"),
    ],
)
def test_a_folder_is_there_and_not_the_jobs_to_write(
    variable: str, check: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "shared"
    assert read({variable: str(folder)})[check].text == f"{folder} is not a directory"
    (folder / file).parent.mkdir(parents=True)
    (folder / file).write_text("")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert read({variable: str(folder)})[check].text == f"{folder} is writable"
    monkeypatch.setattr(os, "access", lambda _, mode: not mode & os.W_OK)
    answer = read({variable: str(folder)})[check]
    assert (answer.ok, answer.text) == (True, f"{folder}: 1 {check}")


def test_certificates_are_read(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    assert not read({"SSL_CERT_FILE": str(file)})["certificates"].ok
    file.write_text("no certificate\n")
    assert not read({"SSL_CERT_FILE": str(file)})["certificates"].ok
    system = Path("/etc/ssl/certs/ca-certificates.crt")
    if system.is_file():
        assert read({"SSL_CERT_FILE": str(system)})["certificates"].text.endswith(" authorities")


def test_several_cards_need_their_devices_and_shared_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shm").mkdir()
    for name in ("nvidia3", "nvidia1", "nvidiactl"):
        (tmp_path / name).write_text("")
    answers = dict(read_provisions({}, PAIR, tmp_path))
    assert answers["NCCL devices"].text == "cannot be opened: nvidia-uvm"
    (tmp_path / "nvidia-uvm").write_text("")
    answers = dict(read_provisions({}, PAIR, tmp_path))
    assert answers["NCCL devices"].ok
    monkeypatch.setattr(provision_checks, "SHARED_MEMORY", 2**60)
    assert not dict(read_provisions({}, PAIR, tmp_path))["shared memory"].ok
    assert not dict(read_provisions({}, PAIR, tmp_path / "none"))["shared memory"].ok


def test_a_wrong_one_is_a_warning_with_its_remedy_and_fails_strictly(tmp_path: Path) -> None:
    answers = read_provisions({"UV_FIND_LINKS": f"{tmp_path}/none https://index.example"}, ())
    (check,) = check_provisions(answers, "warn")
    assert (check.name, check.status) == ("wheels", "warn")
    assert check.fix == "mount it read-only, or unset the variable"
    assert next(check_provisions(answers, "fail")).status == "fail"


def test_the_doctor_makes_these_checks() -> None:
    seen = state(provisions=read_provisions({"UV_FIND_LINKS": "/nowhere/wheels"}, ()))
    assert by_name(check_host(seen, DoctorRequest()))["wheels"].status == "warn"
    assert by_name(check_host(seen, DoctorRequest(strict=True)))["wheels"].status == "fail"
