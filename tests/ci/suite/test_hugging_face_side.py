from contextlib import ExitStack
from pathlib import Path

from ci.settings import Settings
from ci.subjects.hugging_face import HuggingFace
from ci.subjects.reference.subject import ReferenceSubject
from ci.suite.hugging_face_side import HuggingFaceSide
from ci.suite.source_checkpoint import SourceCheckpoint
from tests.ci.suite.samples import MODEL, make_run
from tests.standin.models import repository
from tests.standin.server import HubServer


def test_it_runs_in_this_process_where_the_model_brings_no_code(hub: HubServer, tmp_path: Path) -> None:
    hub.add(MODEL.model_id, repository("stand-in/llama"))
    run = make_run(tmp_path, settings=Settings(cache=tmp_path / "store", endpoint=hub.endpoint))
    with ExitStack() as stack:
        side = HuggingFaceSide(run, SourceCheckpoint(run, None), stack)
        assert isinstance(side.open(ReferenceSubject()), HuggingFace)


def test_nothing_is_prepared_beside_a_subject_in_this_process(hub: HubServer, tmp_path: Path) -> None:
    hub.add(MODEL.model_id, repository("stand-in/llama"))
    run = make_run(tmp_path, settings=Settings(cache=tmp_path / "store", endpoint=hub.endpoint))
    with ExitStack() as stack:
        side = HuggingFaceSide(run, SourceCheckpoint(run, None), stack)
        assert not side.prepare(ReferenceSubject())
        assert side.finish() is None
        side.stop()
