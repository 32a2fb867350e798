from pathlib import Path

from ci.errors import NotComparedError, NotOfferedError, UnsupportedError
from ci.evidence import HUGGING_FACE_NEED
from ci.models import HubModel
from ci.settings import Settings
from ci.subjects.base import Variant
from ci.subjects.offer import NO_ATTENTION, NO_EXPERTS
from ci.subjects.reference.offer import PLAIN
from ci.suite.pipeline import ModelPipeline
from ci.suite.training import ONE_PROCESS
from ci.suite.unmet_needs import find_need, find_unmet_need
from tests.ci.hub.samples import CONFIG, make_repository
from tests.ci.suite.samples import make_run
from tests.standin.models import repository
from tests.standin.server import HubServer

NESTED = {
    "num_hidden_layers": None,
    "decoder": {"type": "fixed", "num_blocks": 5, "block": {"mixer": {"type": "gdn", "key_heads": 2}}},
}
"""A config.json of Fast-LLM's apriel2 without attention."""


def test_only_a_need_of_the_offer_excuses_a_layout() -> None:
    known = UnsupportedError("reference: layout pp2_tied needs tied embeddings, which this model has not")
    assert find_unmet_need("reference", "layout=pp2_tied", known) == "tied embeddings"
    assert find_unmet_need("reference", "layout=pp2_tied", UnsupportedError("needs a nicer model")) == ""


def test_a_dense_model_lacks_experts_where_others_of_its_format_have_them(hub: HubServer, tmp_path: Path) -> None:
    """The report accepts that variants of a mixture did not run only where the suite names this need."""
    settings = Settings(cache=tmp_path / "store", endpoint=hub.endpoint)
    dense = HubModel("dense", "stand-in/gemma4-dense", "gemma4")
    hub.add(dense.model_id, repository(dense.model_id))
    with ModelPipeline(make_run(tmp_path, dense, subject="fast_llm", settings=settings)) as pipeline:
        assert find_need(pipeline, "moe", "looped", None) == NO_EXPERTS
        assert find_need(pipeline, "attention", "backup", None) == ""
        assert find_need(pipeline, "moe", "dropless", Variant("moe", "dropless", needs="triton")) == "triton"
        assert find_need(pipeline, "mixer", "gdn", None) == "a stochastic mixer of this name in every block"


def test_a_model_of_recurrences_alone_lacks_attention(hub: HubServer, tmp_path: Path) -> None:
    directory = make_repository(tmp_path / "m", config={**CONFIG, **NESTED})
    hub.add("o/gdn", directory)
    model = HubModel("gdn", "o/gdn", "apriel2_text")
    settings = Settings(cache=tmp_path / "store", endpoint=hub.endpoint)
    with ModelPipeline(make_run(tmp_path, model, subject="fast_llm", settings=settings)) as pipeline:
        assert find_need(pipeline, "attention", "backup", None) == NO_ATTENTION


def test_what_hugging_face_cannot_train_is_no_need_of_the_subject() -> None:
    assert find_unmet_need("reference", ONE_PROCESS, NotComparedError("no backward pass")) == HUGGING_FACE_NEED
    assert find_unmet_need("reference", ONE_PROCESS, NotOfferedError("no training")) == ""
    assert find_unmet_need("reference", ONE_PROCESS, UnsupportedError(f"reference needs {PLAIN}")) == PLAIN
