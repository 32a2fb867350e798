"""Hugging Face's side in a real sandboxed worker: the same answers, and nothing of the model's code in this process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import cross_entropy

from ci.checkpoints import fetch_own_code, make_fetch_request
from ci.errors import HubTestsError, RemoteCodeError, SubjectError
from ci.hub.fetch import fetch
from ci.models import HubModel
from ci.settings import Settings
from ci.subjects.base import HuggingFaceRunner
from ci.subjects.hugging_face import HuggingFace
from ci.subjects.hugging_face.code_source import ModelCodeSource, find_code_source
from ci.subjects.hugging_face.worker import HuggingFaceWorker, open_hugging_face
from ci.subjects.sandbox import Isolation, detect_isolation
from ci.subjects.trace_files import TraceReader
from ci.subjects.training import TrainRequest
from ci.subjects.worker_subject import WorkerSubject
from ci.tensor_names import LOGITS, prediction_head_name
from tests.ci.subjects.own_code import save_code, save_config
from tests.ci.subjects.tiny import trace_request

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.standin.server import HubServer

TRIES_EVERYTHING = """
import os, pathlib, socket
reached = [name for name in ("HF_TOKEN",) if name in os.environ]
try:
    pathlib.Path({token!r}).read_text()
    reached.append("the token's file")
except OSError:
    pass
try:
    socket.create_connection(({host!r}, {port}), timeout=2).close()
    reached.append("the network")
except OSError:
    pass
try:
    pathlib.Path(__file__).with_name("left_behind.py").write_text("")
    reached.append("its own directory")
except OSError:
    pass
if reached:
    raise RuntimeError("reached " + ", ".join(reached))
"""
LEAVES_A_MARK = "\nimport pathlib\ntry:\n    pathlib.Path({mark!r}).write_text('was here')\nexcept OSError:\n    pass\n"


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = save_code(tmp_path_factory.mktemp("code"))
    directory.chmod(0o755)
    with (directory / "modeling_tiny.py").open("a") as file:
        file.write(LEAVES_A_MARK.format(mark=str(directory.parent / "mark")))
    return directory


@pytest.fixture(scope="module")
def worker(code: Path) -> Iterator[HuggingFaceWorker]:
    if not detect_isolation().applied:
        pytest.skip("namespaces are not to be had here")
    source = ModelCodeSource(code, "the test's own")
    with open_hugging_face(Path(sys.executable), source, detect_isolation(), environ=os.environ) as side:
        yield side


def list_code_modules() -> set[str]:
    return {name for name in sys.modules if name.startswith("hub_tests_model_code")}


def test_it_answers_as_the_side_in_this_process(worker: HuggingFaceWorker, code: Path, tmp_path: Path) -> None:
    assert isinstance(worker, HuggingFaceRunner)
    config = save_config(tmp_path / "config", ("gdn", "attention"))
    known = list_code_modules()  # those of other tests; this code's module would have a name of its own
    worker.write_model(str(config), str(tmp_path / "model"), "float32", 3)
    assert list_code_modules() == known, "it ran in this process"
    assert not (code.parent / "mark").exists(), "the model's code wrote outside of its sandbox"
    ids = torch.randint(0, 53, (2, 7), generator=torch.Generator().manual_seed(1))
    save_file({"input_ids": ids}, tmp_path / "inputs.safetensors")
    request = {"dtype": "float64", "capture": "all"}
    worker.trace(trace_request(tmp_path / "model", tmp_path / "inputs.safetensors", tmp_path / "there", **request))
    assert worker.resolve_config(str(tmp_path / "model"))["hidden_size"] == 24
    assert "model code of the test's own (sha256" in worker.describe_side(str(tmp_path / "model"))
    assert "plain PyTorch stands in for chunk_gated_delta_rule" in worker.describe_side(str(tmp_path / "model"))
    here = HuggingFace(code=code)
    here.trace(trace_request(tmp_path / "model", tmp_path / "inputs.safetensors", tmp_path / "here", **request))
    one, other = TraceReader(tmp_path / "there"), TraceReader(tmp_path / "here")
    assert list(one) == list(other)
    assert all(torch.equal(one.tensor(name), other.tensor(name)) for name in one)
    assert worker.variants(str(tmp_path / "model")) == here.variants(str(tmp_path / "model"))


def test_a_refusal_is_one_line(worker: HuggingFaceWorker, tmp_path: Path) -> None:
    with pytest.raises(SubjectError, match="auto_map names None"):
        worker.resolve_config(str(save_config(tmp_path / "config", auto_map={})))


def test_without_a_sandbox_it_does_not_start(code: Path) -> None:
    source, none = ModelCodeSource(code, "the test's own"), Isolation(None, "switched off by --isolation none")
    with (
        pytest.raises(RemoteCodeError, match="in a sandbox only, and there is none: switched off"),
        open_hugging_face(Path(sys.executable), source, none, environ=os.environ),
    ):
        pass


def test_code_from_the_hub_runs_and_reaches_neither_token_nor_network(
    worker: HuggingFaceWorker, hub: HubServer, tmp_path: Path
) -> None:
    """The entry pins the commit; a later commit's code does not run, and the report says whose code it was."""
    address, token = urlsplit(hub.endpoint), tmp_path / "token"
    token.write_text("hf_secret")
    config = save_config(tmp_path / "config", ("gdn", "attention"), heads=1)
    worker.write_model(str(config), str(tmp_path / "model"), "float32", 3)
    modelling = save_code(tmp_path / "model") / "modeling_tiny.py"
    probe = TRIES_EVERYTHING.format(token=str(token), host=address.hostname, port=address.port)
    modelling.write_text(probe + modelling.read_text())
    pinned = hub.add("o/own", tmp_path / "model")
    hub.grant("hf_secret")
    settings = Settings(cache=tmp_path / "store", endpoint=hub.endpoint, token="hf_secret")
    model = HubModel("own", "o/own", "llama", trust_remote_code=True, code_environment="e", code_revision=pinned)
    fetched = fetch_own_code(model, settings)
    checkpoint = fetch(make_fetch_request(model), settings)
    modelling.write_text("raise RuntimeError('a later commit')")
    assert hub.add("o/own", tmp_path / "model") != pinned
    assert fetch_own_code(model, settings) == fetched
    source = find_code_source(model, (), "of the subject", fetched)
    environ = {**os.environ, "HF_TOKEN": "hf_secret", "HOME": str(tmp_path)}
    with open_hugging_face(Path(sys.executable), source, detect_isolation(), environ=environ) as side:
        assert f"model code of o/own on the Hub at {pinned} (sha256" in side.describe_side(checkpoint.path)
    bare = subprocess.run(
        [sys.executable, "-c", f"__file__ = {str(modelling)!r}\n{probe}"],
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "reached HF_TOKEN, the token's file, the network, its own directory" in bare.stderr, "without a sandbox"


@pytest.mark.parametrize(("from_hub", "kind"), [(True, RemoteCodeError), (False, SubjectError)])
def test_code_of_the_hub_that_lacks_a_file_blames_no_subject(
    from_hub: bool, kind: type[HubTestsError], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = save_code(tmp_path / "code")
    (code / "configuration_tiny.py").unlink()

    def call(*_: Any) -> Any:
        return HuggingFace(code=code).loader.load_code(str(save_config(tmp_path / "config")))

    monkeypatch.setattr(WorkerSubject, "_call", call)
    source = ModelCodeSource(code, "o/own on the Hub at its commit", from_hub=from_hub)
    side = HuggingFaceWorker(None, 1.0, source=source)  # type: ignore[arg-type]
    with pytest.raises(kind, match=r"configuration_tiny\.py cannot be imported"):
        side.describe()
    assert side.runs_code_under_test() is not from_hub


def test_it_trains_every_prediction_head(worker: HuggingFaceWorker, tmp_path: Path) -> None:
    """The loss is the sum of the heads' means, each over the targets that the mask counts."""
    config = save_config(tmp_path / "config", ("gdn", "attention"))
    worker.write_model(str(config), str(tmp_path / "model"), "float32", 3)
    ids = torch.randint(0, 53, (1, 9), generator=torch.Generator().manual_seed(1))
    mask = torch.tensor([[1, 0, 1, 1, 0, 1, 1, 1]])
    documents = {"input_ids": ids, "lengths": torch.tensor([9]), "loss_mask": mask}
    save_file(documents, tmp_path / "documents.safetensors")
    save_file({"input_ids": ids}, tmp_path / "inputs.safetensors")
    files = str(tmp_path / "documents.safetensors"), str(tmp_path / "trained"), "mtp_llama"
    result = worker.train(TrainRequest(str(tmp_path / "model"), *files, dtype="float64"))
    worker.trace(
        trace_request(tmp_path / "model", tmp_path / "inputs.safetensors", tmp_path / "there", dtype="float64")
    )
    trace = TraceReader(tmp_path / "there")
    expected = 0.0
    for head, name in enumerate((LOGITS, prediction_head_name(1, LOGITS))):
        losses = cross_entropy(trace.tensor(name)[0, : 8 - head].double(), ids[0, 1 + head :], reduction="none")
        expected += float((losses * mask[0, head:]).sum() / mask[0, head:].sum())
    assert result.losses[0] == pytest.approx(expected, rel=1e-12)
    gradients = load_file(tmp_path / "trained" / "step-1" / "gradients" / "model.safetensors")
    stored = load_file(tmp_path / "model" / "model.safetensors")
    assert gradients.keys() == stored.keys()
    assert all(bool(gradient.any()) for name, gradient in gradients.items() if "mtp_heads" in name)


def test_a_step_in_parts_comes_back_whole(worker: HuggingFaceWorker, tmp_path: Path) -> None:
    config = save_config(tmp_path / "config", ("attention",))
    worker.write_model(str(config), str(tmp_path / "model"), "float32", 3)
    ids = torch.randint(0, 53, (2, 9), generator=torch.Generator().manual_seed(1))
    save_file({"input_ids": ids, "lengths": torch.tensor([9, 6])}, tmp_path / "documents.safetensors")
    files = str(tmp_path / "documents.safetensors"), str(tmp_path / "trained"), "mtp_llama"
    worker.train_in_parts(TrainRequest(str(tmp_path / "model"), *files, layout="dp2", dtype="float64"))
    whole = load_file(tmp_path / "trained" / "step-1" / "gradients" / "model.safetensors")
    parts = [load_file(tmp_path / "trained" / "parts" / "document" / f"{d}" / "model.safetensors") for d in range(2)]
    assert all(torch.allclose(whole[name], parts[0][name] + parts[1][name]) for name in whole)
    assert (tmp_path / "trained" / "parts" / "tokens.safetensors").is_file()
