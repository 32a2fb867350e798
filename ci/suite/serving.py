"""The check that an inference engine serves the export as it serves the original."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ci.evidence import NOT_COVERED

if TYPE_CHECKING:
    from ci.equivalence.verdict import Verdict
    from ci.run_options import RunOptions
    from ci.suite.pipeline import ModelPipeline


def check_served_export(pipeline: ModelPipeline) -> tuple[Verdict, ...]:
    """Serve original and export with the consumer, and compare.

    Raises NotOfferedError where the consumer is not here, or does not serve the original either.
    """
    from ci.consumers.open_consumer import find_interpreter, open_consumer
    from ci.equivalence.served_export import ServedExport

    run, options = pipeline.run, pipeline.run.options
    name = options.consumer or ""
    python, variables = find_interpreter(name, run.settings.environment_roots, options.consumer_python)
    exported, reference = pipeline.export(), pipeline.judge().reference
    with open_consumer(
        name,
        python=python,
        timeout=options.timeout,
        log=run.choose_log_file(name),
        isolation=run.isolation,
        readable=(reference.checkpoint,),
        variables=variables,
        clock=run.clock,
    ) as consumer:
        trainer = (pipeline.start_subject(), str(pipeline.convert()[0]))
        workdir, policy = run.workdir / "served", run.model.export_policy
        return ServedExport(reference, consumer, exported, workdir, trainer, policy).check()


def describe_serving(options: RunOptions) -> dict[str, str]:
    """Say that no engine serves the export, where none was asked for."""
    return {} if options.consumer else {"served": f"{NOT_COVERED}no engine served the export (--consumer)"}
