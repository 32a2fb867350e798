"""A private certificate authority is named once, and a file that is none is told in one line."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from ci.certificates import BUNDLE, OTHERS, name_certificates, read_certificates, share_certificates
from ci.errors import RequestError

FAR = 4e9
"""Seconds since 1970: the year 2096."""


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("authority") / "ca.pem"
    make_authority(file, "a company")
    return file


def make_authority(file: Path, name: str, *more: str) -> None:
    new = ["openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-x509", "-days", "2"]
    key = ["-subj", f"/CN={name}", "-keyout", str(file.with_suffix(".key")), "-out", str(file)]
    subprocess.run([*new, *key, *more], check=True, capture_output=True)


def test_git_and_pip_trust_what_the_others_do() -> None:
    shared = share_certificates({"SSL_CERT_FILE": "/ca.pem", "PATH": "/bin"})
    assert shared == {"SSL_CERT_FILE": "/ca.pem", "PATH": "/bin", "GIT_SSL_CAINFO": "/ca.pem", "PIP_CERT": "/ca.pem"}


def test_their_own_variables_win() -> None:
    assert share_certificates({"SSL_CERT_FILE": "/ca.pem", "PIP_CERT": "/pip.pem"})["PIP_CERT"] == "/pip.pem"


def test_without_one_nothing_is_set() -> None:
    assert share_certificates({"PATH": "/bin"}) == {"PATH": "/bin"}
    assert name_certificates("") == {}


def test_a_jobs_programs_have_a_variable_each() -> None:
    named = name_certificates("/ca.pem")
    assert set(named) == {"SSL_CERT_FILE", "GIT_SSL_CAINFO", "PIP_CERT", *OTHERS}
    assert set(named.values()) == {"/ca.pem"}


def test_authorities_are_counted_and_the_expired_ones_named(authority: Path, tmp_path: Path) -> None:
    assert read_certificates(authority).authorities == 1
    assert read_certificates(authority).expired == ()
    both = tmp_path / "both.pem"
    make_authority(tmp_path / "long.pem", "another", "-days", "40000")
    both.write_text(authority.read_text() + (tmp_path / "long.pem").read_text())
    assert read_certificates(both).expired == ()
    found = read_certificates(both, now=FAR)
    assert (found.authorities, found.expired) == (2, ("a company",))


@pytest.mark.skipif(not Path(BUNDLE).is_file(), reason="apt-get install ca-certificates")
def test_the_systems_own_file_is_good() -> None:
    assert read_certificates(Path(BUNDLE)).authorities > 50


def test_what_cannot_be_used_is_told_in_one_line_with_what_to_do(authority: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.pem"
    fix = "update-ca-certificates"
    told = [refuse(wrong)]
    wrong.mkdir()
    told.append(refuse(wrong))
    wrong.rmdir()
    wrong.write_text("no certificate\n")
    told.append(refuse(wrong))
    der = ["openssl", "x509", "-in", str(authority), "-outform", "DER", "-out", str(wrong)]
    subprocess.run(der, check=True, capture_output=True)
    told.append(refuse(wrong))
    make_authority(wrong, "no authority", "-addext", "basicConstraints=critical,CA:FALSE")
    told.append(refuse(wrong))
    assert all(line.startswith(f"{wrong}: ") and fix in line and "\n" not in line for line in told)
    reasons = ("No such file", "Is a directory", "not a PEM file", "not a PEM file", "no certificate of an authority")
    assert all(reason in line for reason, line in zip(reasons, told, strict=True))
    wrong.write_text(authority.read_text() + authority.with_suffix(".key").read_text())
    assert "has a private key, which every job could read" in refuse(wrong)


def test_an_authority_that_expired_is_named(authority: Path) -> None:
    with pytest.raises(RequestError, match=r"ca\.pem: a company expired: put the authority's new certificate there"):
        read_certificates(authority, now=FAR)


def refuse(file: Path) -> str:
    with pytest.raises(RequestError) as refused:
        read_certificates(file)
    return str(refused.value)
