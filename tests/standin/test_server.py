"""The stand-in implements the Hub's protocol: tested with the real huggingface_hub client, and as raw bytes."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from huggingface_hub import HfApi, get_hf_file_metadata, hf_hub_url
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tests.standin.fixtures import hf_api, hub
from tests.standin.wire import Fault

if TYPE_CHECKING:
    from tests.standin.server import HubServer

__all__ = ["hf_api", "hub"]

WEIGHTS = bytes(range(256)) * 4096
MODEL = "org/model"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    root = tmp_path / "repo"
    (root / "onnx").mkdir(parents=True)
    (root / "config.json").write_text(json.dumps({"model_type": "llama", "pad": "x" * 5000}))
    (root / "model.safetensors").write_bytes(WEIGHTS)
    (root / "onnx" / "notes.txt").write_text("hello")
    return root


@pytest.fixture
def commit(hub: HubServer, directory: Path) -> str:
    return hub.add(MODEL, directory)


def ask(url: str, method: str = "GET", **headers: str) -> tuple[http.client.HTTPResponse, bytes]:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=120)
    try:
        connection.request(
            method, f"{parts.path}?{parts.query}", headers={k.replace("_", "-"): v for k, v in headers.items()}
        )
        response = connection.getresponse()
        return response, response.read()
    finally:
        connection.close()


def signed(hub: HubServer, file: str = "model.safetensors") -> str:
    response, _ = ask(f"{hub.endpoint}/{MODEL}/resolve/main/{file}", "HEAD")
    return response.headers["Location"]


def test_snapshot_download_gets_every_byte(
    hub: HubServer, hf_api: HfApi, commit: str, directory: Path, tmp_path: Path
) -> None:
    got = hf_api.snapshot_download(MODEL, cache_dir=tmp_path / "cache")
    assert got.endswith(commit)
    for path in ("config.json", "model.safetensors", "onnx/notes.txt"):
        assert (tmp_path / got / path).read_bytes() == (directory / path).read_bytes()
    assert {r.origin for r in hub.log} == {"hub", "cdn"}


def test_model_info_and_tree(hub: HubServer, hf_api: HfApi, commit: str) -> None:
    info = hf_api.model_info(MODEL, files_metadata=True)
    assert (info.id, info.sha, info.gated) == (MODEL, commit, False)
    sizes = {s.rfilename: (s.size, s.lfs and s.lfs.sha256) for s in info.siblings or []}
    assert sizes["model.safetensors"] == (len(WEIGHTS), hashlib.sha256(WEIGHTS).hexdigest())
    assert hf_api.model_info(MODEL, revision=commit).sha == commit
    hub.catalog.page_size = 2
    tree = {entry.path for entry in hf_api.list_repo_tree(MODEL, recursive=True)}
    assert tree == {"config.json", "model.safetensors", "onnx", "onnx/notes.txt"}
    assert [entry.path for entry in hf_api.list_repo_tree(MODEL)] == ["onnx", "config.json", "model.safetensors"]
    assert [entry.path for entry in hf_api.list_repo_tree(MODEL, "onnx")] == ["onnx/notes.txt"]
    assert [entry.path for entry in hf_api.get_paths_info(MODEL, ["config.json"])] == ["config.json"]
    assert [branch.target_commit for branch in hf_api.list_repo_refs(MODEL).branches] == [commit]


def test_file_metadata_is_gits_and_lfs_own(hub: HubServer, hf_api: HfApi, commit: str, directory: Path) -> None:
    weights = get_hf_file_metadata(hf_hub_url(MODEL, "model.safetensors", endpoint=hub.endpoint))
    assert (weights.etag, weights.size) == (hashlib.sha256(WEIGHTS).hexdigest(), len(WEIGHTS))
    assert (weights.commit_hash, weights.xet_file_data) == (commit, None)
    assert weights.location.startswith(hub.catalog.cdn)
    config = get_hf_file_metadata(hf_hub_url(MODEL, "config.json", endpoint=hub.endpoint))
    content = (directory / "config.json").read_bytes()
    assert config.etag == hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    assert config.size == len(content)


def test_old_commits_stay(hub: HubServer, hf_api: HfApi, commit: str, tmp_path: Path) -> None:
    newer = tmp_path / "newer"
    newer.mkdir()
    (newer / "config.json").write_text("{}")
    head = hub.add(MODEL, newer)
    assert head != commit
    assert len(head) == 40
    assert hf_api.model_info(MODEL).sha == head
    old = hf_api.hf_hub_download(MODEL, "config.json", revision=commit, cache_dir=tmp_path / "cache")
    assert "llama" in Path(old).read_text()
    assert hub.add("org/copy", newer) == head, "equal contents, equal commits"


def test_relative_redirect_of_small_files(hub: HubServer, hf_api: HfApi, commit: str, tmp_path: Path) -> None:
    hub.catalog.relative_redirects = True
    hf_api.hf_hub_download(MODEL, "config.json", cache_dir=tmp_path / "cache")
    assert any(r.path == f"/api/resolve-cache/models/{MODEL}/{commit}/config.json" for r in hub.log)


@pytest.mark.parametrize(
    ("token", "error", "status"),
    [(False, GatedRepoError, 401), ("other", GatedRepoError, 403), ("bad", HfHubHTTPError, 401)],
)
def test_gated(
    hub: HubServer, hf_api: HfApi, directory: Path, token: str | bool, error: type[Exception], status: int
) -> None:
    hub.add(MODEL, directory, gated=True)
    hub.grant("other")
    hub.grant("good", MODEL)
    assert hf_api.model_info(MODEL, token=False).gated == "manual", "the page of a gated model is public"
    url = hf_hub_url(MODEL, "config.json", endpoint=hub.endpoint)
    assert get_hf_file_metadata(url, token="good").size
    with pytest.raises(error) as refused:
        get_hf_file_metadata(url, token=token)
    assert refused.value.response.status_code == status  # type: ignore[attr-defined]


def test_not_found(hub: HubServer, hf_api: HfApi, commit: str) -> None:
    hub.grant("good")
    for token in (False, "good"):
        with pytest.raises(RepositoryNotFoundError):
            hf_api.model_info("org/other", token=token)
    with pytest.raises(RevisionNotFoundError):
        hf_api.model_info(MODEL, revision="nope")
    with pytest.raises(RemoteEntryNotFoundError) as missing:
        get_hf_file_metadata(hf_hub_url(MODEL, "nope.json", endpoint=hub.endpoint))
    assert missing.value.response.headers["X-Repo-Commit"] == commit


def test_token_stays_on_the_hub(hub: HubServer, hf_api: HfApi, directory: Path, tmp_path: Path) -> None:
    hub.add(MODEL, directory, gated=True)
    hub.grant("good", MODEL)
    hf_api.snapshot_download(MODEL, token="good", cache_dir=tmp_path / "cache")
    assert all("authorization" in r.headers for r in hub.requests("hub"))
    assert hub.leaks() == []
    response, _ = ask(signed_with(hub, "good"), Authorization="Bearer good")
    assert response.status == 400
    assert len(hub.leaks()) == 1
    hub.log.clear()


def signed_with(hub: HubServer, token: str) -> str:
    url = f"{hub.endpoint}/{MODEL}/resolve/main/model.safetensors"
    return ask(url, "HEAD", Authorization=f"Bearer {token}")[0].headers["Location"]


@pytest.mark.parametrize(
    ("wanted", "span"),
    [("bytes=0-0", (0, 1)), ("bytes=5-99", (5, 100)), ("bytes=-7", (-7, None)), ("bytes=10-", (10, None))],
)
def test_ranges(hub: HubServer, commit: str, wanted: str, span: tuple[int, int | None]) -> None:
    response, body = ask(signed(hub), Range=wanted)
    assert body == WEIGHTS[span[0] : span[1]]
    assert response.status == 206
    first = span[0] % len(WEIGHTS)
    assert response.headers["Content-Range"] == f"bytes {first}-{first + len(body) - 1}/{len(WEIGHTS)}"


def test_ranges_that_cannot_be(hub: HubServer, commit: str) -> None:
    response, _ = ask(signed(hub), Range=f"bytes={len(WEIGHTS)}-")
    assert (response.status, response.headers["Content-Range"]) == (416, f"bytes */{len(WEIGHTS)}")
    response, body = ask(signed(hub), Range="bytes=0-1,4-5")
    assert (response.status, len(body)) == (200, len(WEIGHTS)), "several ranges give the whole file"


def test_signed_urls_end(hub: HubServer, commit: str) -> None:
    url = signed(hub)
    assert ask(url)[0].status == 200
    assert ask(url.replace("Signature=", "Signature=0"))[0].status == 403
    hub.expire_urls()
    assert ask(url)[0].status == 403
    hub.catalog.url_life = -1
    response, body = ask(signed(hub))
    assert response.status == 403
    assert b"expired" in body


def test_small_text_is_gzipped_for_who_accepts_it(hub: HubServer, commit: str) -> None:
    response, body = ask(f"{hub.endpoint}/{MODEL}/resolve/main/config.json", Accept_Encoding="gzip")
    assert response.headers["Content-Encoding"] == "gzip"
    assert body[:2] == b"\x1f\x8b"
    assert "Content-Length" not in response.headers


def test_status_faults_are_counted(hub: HubServer, commit: str) -> None:
    url = f"{hub.endpoint}/{MODEL}/resolve/main/config.json"
    hub.faults.inject(Fault("status", status=429, headers={"Retry-After": "7"}, times=2, skip=1, file="config.json"))
    answers = [ask(url)[0] for _ in range(4)]
    assert [a.status for a in answers] == [200, 429, 429, 200]
    assert answers[1].headers["Retry-After"] == "7"
    assert [r.status for r in hub.log] == [200, 429, 429, 200]


def test_faults_choose_their_requests(hub: HubServer, commit: str) -> None:
    hub.faults.inject(Fault("status", origin="cdn", method="GET", file="*.safetensors", times=None))
    assert ask(f"{hub.endpoint}/{MODEL}/resolve/main/config.json")[0].status == 200
    assert [ask(signed(hub))[0].status for _ in range(3)] == [503, 503, 503]
    hub.faults.clear()
    assert ask(signed(hub))[0].status == 200


@pytest.mark.parametrize(("fault", "error"), [(Fault("drop", origin="cdn"), ConnectionError),
                                              (Fault("reset", 1000, "cdn"), ConnectionError),
                                              (Fault("cut", 1000, "cdn"), http.client.IncompleteRead),
                                              (Fault("hang", 60, "cdn"), TimeoutError)])  # fmt: skip
def test_broken_transport(hub: HubServer, commit: str, fault: Fault, error: type[Exception]) -> None:
    url = urlsplit(signed(hub))
    hub.faults.inject(fault)
    connection = http.client.HTTPConnection(url.netloc, timeout=0.3 if fault.kind == "hang" else 120)
    try:
        with pytest.raises(error):  # noqa: PT012 - either call may break
            connection.request("GET", f"{url.path}?{url.query}")
            connection.getresponse().read()
    finally:
        connection.close()


def test_lies_about_the_range(hub: HubServer, commit: str) -> None:
    url = signed(hub)
    hub.faults.inject(Fault("ignore_range", 0, "cdn"), Fault("wrong_range", 1, "cdn"), Fault("resize", 3, "cdn"))
    hub.faults.inject(Fault("short", 2, "cdn"), Fault("corrupt", 4, "cdn"), Fault("expired", origin="cdn"))
    answers = [ask(url, Range="bytes=0-9") for _ in range(6)]
    assert (answers[0][0].status, len(answers[0][1])) == (200, len(WEIGHTS))
    spans = [response.headers["Content-Range"] for response, _ in answers[1:4]]
    assert spans == [f"bytes 1-10/{len(WEIGHTS)}", f"bytes 0-9/{len(WEIGHTS) + 3}", f"bytes 0-9/{len(WEIGHTS)}"]
    assert answers[3][1] == WEIGHTS[:8]
    assert answers[4][1] == bytes([0, 1, 2, 3, 5, 5, 6, 7, 8, 9])
    assert answers[5][0].status == 403


def test_slow_body_comes_in_pieces(hub: HubServer, commit: str) -> None:
    url = urlsplit(signed(hub))
    hub.faults.inject(Fault("slow", 1000, "cdn"))
    connection = http.client.HTTPConnection(url.netloc, timeout=120)
    try:
        connection.request("GET", f"{url.path}?{url.query}", headers={"Range": "bytes=0-199"})
        response = connection.getresponse()
        assert len(response.read1(200)) < 200
        response.read()
    finally:
        connection.close()


def test_log_tells_what_was_asked(hub: HubServer, commit: str) -> None:
    ask(signed(hub), Range="bytes=0-99")
    seen = hub.requests("cdn", "GET")
    assert [(r.file, r.range, r.status, r.sent) for r in seen] == [("model.safetensors", "bytes=0-99", 206, 100)]
    assert len(hub.requests("hub", "HEAD")) == 1


def test_the_hf_command_downloads(hub: HubServer, commit: str, tmp_path: Path) -> None:
    hf = Path(sys.executable).with_name("hf")
    environ = {**os.environ, "HF_ENDPOINT": hub.endpoint, "HF_HUB_DISABLE_UPDATE_CHECK": "1"}
    target = tmp_path / "target"
    command = [str(hf), "download", MODEL, "--revision", commit, "--local-dir", str(target)]
    subprocess.run(command, env=environ, check=True, capture_output=True)
    assert (target / "model.safetensors").read_bytes() == WEIGHTS
