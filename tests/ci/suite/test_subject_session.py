from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from ci.subjects.failure import SubjectCrashError
from ci.suite.subject_session import SubjectSession
from tests.ci.suite.samples import make_run


def test_the_subject_is_opened_once(tmp_path: Path) -> None:
    with ExitStack() as stack:
        session = SubjectSession(make_run(tmp_path), stack)
        subject = session.start(tmp_path)
        assert session.start(tmp_path) is subject
        assert subject.describe().version
        session.warm_device()
        assert (session.find_disk_failure(), session.compile_cache_figures()) == (None, {})


def test_a_subject_that_could_not_be_built_says_so_again_and_again(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    broken = replace(run, options=replace(run.options, subject_failure="pip ended with 1"))
    with ExitStack() as stack:
        session = SubjectSession(broken, stack)
        for _ in range(2):
            with pytest.raises(SubjectCrashError, match="pip ended with 1"):
                session.start(tmp_path)
