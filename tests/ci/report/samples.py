"""Sample runs, made as real ones are: write JUnit XML for a plan's tests, read it back, build the results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal
from xml.sax.saxutils import escape, quoteattr

from ci.equivalence.tolerances import SYNTHETIC_LAYERS
from ci.evidence import Evidence, Heat, LayerRouting, Measure, Step, to_property
from ci.models import HubModel
from ci.plan import Plan, RunRequest, make_plan
from ci.report.build_results import build_results
from ci.report.history import Baseline, HistoryRecord, make_history_records
from ci.report.junit import read_junit
from ci.report.results import Attempt, Job, Problem, Results

SHA = "1a2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d"
GOOD_SHA = "99887766554433221100ffeeddccbbaa99887766"
REVISION = "985aa055896a8f943d4a9f2572e6ea1341823841"
RUN_URL = "https://github.com/org/framework/actions/runs/123456789"
LIBRARIES = {"torch": "2.13.0", "transformers": "5.23.0"}

MODELS = {
    name: HubModel(name, model_id, checkpoint_format, num_layers_to_keep=2, groups=("default",), revision=REVISION)
    for name, model_id, checkpoint_format in (
        ("smollm2", "HuggingFaceTB/SmolLM2-135M", "llama"),
        ("mistral", "mistralai/Mistral-7B-v0.1", "mistral"),
        ("mixtral", "mistralai/Mixtral-8x7B-v0.1", "mixtral"),
    )
}
BLOCK = ("norm_1", "mixer.query", "mixer.key", "mixer.value", "mixer.context", "mixer", "mixer_residual", "norm_2")
ROTARY = (
    "layer 1, attention [conversion]: the rotary embedding is wrong; "
    "query and key leave the reference's noise first, growing with position"
)


@dataclass(frozen=True)
class Fault:
    """How one test does not pass: the JUnit element's tag, message and text, and changes to its evidence.

    Without a tag the test passes, with changed evidence.
    """

    tag: Literal["failure", "error", "skipped"] | None = "failure"
    message: str = "AssertionError"
    text: str = "E   AssertionError"
    evidence: Mapping[str, Any] = field(default_factory=dict)


def plan_of(*names: str, models: Mapping[str, HubModel] = MODELS, **request: Any) -> Plan:
    """Make a plan over `names`, or over all of MODELS."""
    known: dict[str, Any] = {
        "trigger": "issue_comment",
        "models": names,
        "subject": "reference",
        "sha": SHA,
        "pull_request": 42,
        "actor": "maintainer",
        "run_url": RUN_URL,
    }
    return make_plan(RunRequest(**{**known, **request}), models)


def tensors(layers: int, *, moe: bool) -> list[str]:
    """Return the tensor names of a trace in execution order."""
    block = (*BLOCK, *(("mlp.router_logits",) if moe else ()), "mlp", "")
    inner = [f"decoder.{layer}.{part}".rstrip(".") for layer in range(layers) for part in block]
    return ["embeddings", *inner, "final_norm", "logits"]


def measures(*, wrong_from: str | None = None, moe: bool = False, layers: int = 2) -> tuple[Measure, ...]:
    """Return plausible measures in both dtypes.

    From the tensor `wrong_from` on, float32 is far above its limit.
    """
    measured = []
    for dtype, noise, floor, limit in (("float32", 2e-7, 4e-7, 4e-6), ("bfloat16", 6e-3, 1.4e-2, 2.8e-2)):
        wrong = False
        for index, name in enumerate(tensors(layers, moe=moe)):
            wrong = wrong or (name == wrong_from)
            error = noise * (1 + (index * 7 % 5) / 4) if not wrong else limit * (4000 if dtype == "float32" else 3)
            measured.append(_measure(name, dtype, floor=floor, limit=limit, error=error))
    return tuple(measured)


def _measure(name: str, dtype: str, *, floor: float, limit: float, error: float) -> Measure:
    return Measure(
        tensor=name,
        dtype=dtype,
        shape=(2, 64, 576),
        error=error,
        limit=limit,
        floor=floor,
        ratio=error / floor,
        worst_index=(0, 37, 112),
        expected=0.1234567,
        actual=0.1234567 + error,
        passed=error <= limit,
        case="random",
    )


def heat(*, wrong_from: int | None = None, layers: int = 2) -> Heat:
    """Return a heat map, above the limit from the layer `wrong_from` on and growing with position."""
    rows = ("embeddings", *(f"decoder.{i}" for i in range(layers)), "final_norm", "logits")
    columns = tuple(range(0, 64, 2))
    values = tuple(
        tuple(
            round(-1.5 + 0.03 * (column % 14), 2)
            if wrong_from is None or row < wrong_from
            else round(min(-1.2 + column / 16, 2.5), 2)
            for column in columns
        )
        for row in range(len(rows))
    )
    return Heat("random", "float32", rows, columns, values)


def routing(large: int = 0) -> tuple[LayerRouting, ...]:
    """Return the routing of two layers with `large` large flips in the second."""
    return (
        LayerRouting(0, 128, 1, 0, 2.1e-7, 4.4e-8, "random", "float32"),
        LayerRouting(1, 128, 2, large, 0.31 if large else 3.0e-7, 1.2e-7, "random", "float32"),
    )


FORWARD_STEPS = ("test_forward_equivalence", "test_moe_implementation", "test_implementation", "test_positions")
OTHER_STEPS = (
    "test_hub_model_conversion",
    "test_weight_liveness",
    "test_layer_order",
    "test_gradients",
    "test_training_step",
    "test_resume",
    "test_layout_conversion",
)
"""Steps that compare tensors in float32 only. Most reports are about other things, so their figures are small."""
LAYERS = {"test_layer_order": SYNTHETIC_LAYERS}
FIGURES = {
    "test_download_and_truncate": {"bytes_kept": 4096.0},
    "test_conversion": {"bytes_written": 4096.0},
    "test_hub_model_conversion": {"tensors_changed": 0.0, "semantic_keys_changed": 0.0, "companions.kept": 20.0},
    "test_training_step": {"training.quantities": 40.0},
    "test_implementation": {"training.quantities": 40.0},
    "test_resume": {"resume.damaged_accepted": 0.0},
    "test_layout_conversion": {"conversion.tensors": 40.0},
}
INPUTS = {"inputs": "batch: 4 x 64 (random, ids 0a1b2c3d)"}


def evidence_of(test: str, entry: str, plan: Plan | None = None, /, **changes: Any) -> Evidence:
    """Return the evidence that the suite records for a test of an entry, of its plan's where one is given."""
    step: Step = test.split("[")[0]  # type: ignore[assignment]
    planned = plan.entry(entry) if plan else None
    model = planned.model if planned else MODELS.get(entry)
    moe = "moe" in step or entry == "mixtral"
    run_results = changes.get("failure_class") in (None, "numeric_mismatch")
    forward = run_results and step in FORWARD_STEPS
    shown = (
        measures(moe=moe)
        if forward
        else exact_measures(LAYERS.get(step, 2))
        if run_results and step in OTHER_STEPS
        else ()
    )
    axis, name = find_variant(test, entry)
    known = Evidence(
        model=entry,
        step=step,
        model_id=model.model_id if model else f"org/{entry}",
        revision=REVISION,
        layers=2,
        subject=plan.request.subject if plan else "reference",
        subject_version="0.1.0",
        device="cuda",
        variant=f"{axis}={name}" if axis else None,
        ran={axis: name} if axis else {},
        published_dtype="bfloat16" if step == "test_download_and_truncate" else "",
        libraries=LIBRARIES,
        measures=shown,
        worst=max(shown, key=lambda measure: measure.used) if shown else None,
        heat=heat() if step == "test_forward_equivalence" else None,
        routing=routing() if moe and forward else (),
        coverage=COVERAGE.get(step, INPUTS if forward or step in COVERED else {}),
        figures=FIGURES.get(step, {}),
    )
    return replace(known, **changes)


COVERED = ("test_weight_liveness", "test_layer_order")
COVERAGE = {
    "test_config_sensitivity": {"config key rope_theta=30000": "alike"},
    "test_positions": {"positions": "up to 2047 of 2047"},
    "test_training_step": {"layout": "single: one rank on cpu"},
    "test_implementation": {**INPUTS, "layout": "tp2: 2 ranks on cpu over gloo"},
    "test_resume": {"resume": "step 2 after a resume"},
    "test_layout_conversion": {"layout": "single to and from tp2"},
}


def exact_measures(layers: int = 2) -> tuple[Measure, ...]:
    """Return a bit-exact forward pass in float32."""
    names = ("embeddings", *(f"decoder.{layer}" for layer in range(layers)), "final_norm", "logits")
    return tuple(Measure(name, "float32", (2, 64, 576), error=0.0, limit=0.0) for name in names)


def find_variant(test: str, entry: str) -> tuple[str, str]:
    """Return axis and name of the variant in a test id, empty without one."""
    step, _, parameter = test.partition("[")
    label = parameter.removesuffix("]").removesuffix(entry).removesuffix("-")
    if step == "test_moe_implementation":
        return "moe", label
    axis, _, name = label.partition("-")
    return (axis, name) if step == "test_implementation" else ("", "")


def wrong_forward(*, moe: bool = False, operation: str = "attention", half: str = "conversion") -> dict[str, Any]:
    """Return changes to the evidence: the forward pass is wrong from the second layer's query on."""
    shown = measures(wrong_from="decoder.1.mixer.query", moe=moe)
    return {
        "failure_class": "numeric_mismatch",
        "diagnosis": ROTARY,
        "half": half,
        "layer": 1,
        "operation": operation,
        "measures": shown,
        "worst": next(measure for measure in shown if not measure.passed),
        "heat": heat(wrong_from=2),
        "routing": routing(3) if moe else (),
    }


def junit(plan: Plan, faults: Mapping[str, Fault | None] | None = None, *, only: str | None = None) -> bytes:
    """Return the XML that pytest writes for the plan's tests.

    A fault of None leaves the test out.
    """
    faults = faults or {}
    cases = []
    for entry in plan.entries:
        if only in (None, entry.name):
            for index, test in enumerate(dict.fromkeys([*entry.tests, *_extra(faults, entry.name, plan)])):
                if test not in faults:
                    cases.append(_case(test, entry.name, None, plan=plan, seconds=1.5 + index))
                elif (fault := faults[test]) is not None:
                    cases.append(_case(test, entry.name, fault, plan=plan, seconds=1.5 + index))
    return document("".join(cases))


def document(cases: str) -> bytes:
    """Return a JUnit document around `<testcase>` elements."""
    start = '<?xml version="1.0" encoding="utf-8"?><testsuites><testsuite name="pytest">'
    return f"{start}{cases}</testsuite></testsuites>".encode()


def _extra(faults: Mapping[str, Fault | None], entry: str, plan: Plan) -> list[str]:
    planned = {test for known in plan.entries for test in known.tests}
    return [test for test in faults if test not in planned and entry in test]


def _case(test: str, entry: str, fault: Fault | None, *, plan: Plan, seconds: float) -> str:
    changes = dict(fault.evidence) if fault else {}
    value = changes.pop("raw", None)
    if value is None:
        value = to_property(evidence_of(test, entry, plan, **changes))[1]
    inner = (
        f"<{fault.tag} message={quoteattr(fault.message)}>{escape(fault.text)}</{fault.tag}>"
        if fault and fault.tag
        else ""
    )
    return with_property(test, value, inner, seconds=seconds)


def with_property(test: str, value: str, inner: str = "", *, seconds: float = 1.0) -> str:
    """Return a `<testcase>` with `value` as its evidence, or without evidence for ""."""
    kept = f'<properties><property name="hub-tests" value={quoteattr(value)}/></properties>' if value else ""
    return f'<testcase classname="suite" name={quoteattr(test)} time="{seconds}">{kept}{inner}</testcase>'


def chain(entry: str, failed: str, reason: str, *, steps: tuple[str, ...]) -> dict[str, Fault]:
    """Return the skips of the tests `steps` after `failed` fails."""
    message = f"{failed}[{entry}] failed: {reason}"
    return {step: Fault("skipped", message, message, {"failure_class": "dependency"}) for step in steps}


def make_results(plan: Plan, faults: Mapping[str, Fault | None] | None = None, **more: Any) -> Results:
    """Return the results of a run in one file."""
    return build_results(plan, read_junit(junit(plan, faults)), **more)


def nights(plan: Plan, *runs: Mapping[str, Fault | None], sha: str = GOOD_SHA) -> Baseline:
    """Return a baseline with one night for each run, oldest first."""
    records: dict[str, list[HistoryRecord]] = {}
    for day, faults in enumerate(runs, start=1):
        night = replace(plan, request=replace(plan.request, sha=f"{day:02d}{sha[2:]}", trigger="schedule"))
        for record in make_history_records(make_results(night, faults), f"2026-08-{day:02d}T03:17:00Z"):
            records.setdefault(record.entry, []).append(record)
    return Baseline({name: tuple(known) for name, known in records.items()})


TRACEBACK = """\
    def test_forward_equivalence(pipeline: ModelPipeline, record: Any, fast_llm_path: Path) -> None:
        with record() as note:
>           assert all(verdict.passed for verdict in verdicts), verdict_text(verdicts)
E           AssertionError: layer 1, attention [conversion]: the rotary embedding is wrong; query and key leave the
E           decoder.1.mixer.query (float32): error 1.60e-02, limit 4.00e-06, floor 4.00e-07

tests/integration/test_hub_integration.py:69: AssertionError"""


def mismatch(*, moe: bool = False) -> Fault:
    """Return the fault of a wrong rotary embedding."""
    return Fault("failure", f"AssertionError: {ROTARY}", TRACEBACK, wrong_forward(moe=moe))


def did_not_run(variant: str, need: str) -> Fault:
    """Return the skip of a variant whose subject lacks something."""
    said = {"failure_class": "variant_did_not_run", "diagnosis": f"{variant} did not run: needs {need}"}
    return Fault("skipped", f"variant did not run: {variant} needs {need}", "", {**said, "unmet_need": need})


# The runs of the golden reports


def served_evidence(**changes: Any) -> dict[str, Any]:
    """What the suite records for an export that vLLM serves."""
    compared = [
        Measure("served.logprobs", dtype, (2, 64), 0.01, 0.012, floor=0.01) for dtype in ("float32", "bfloat16")
    ]
    return {"measures": tuple(compared), "worst": compared[0], "coverage": {"served by": "vllm 0.32.0"}, **changes}


def passing() -> Results:
    """Return a run that passed, with a baseline."""
    plan = plan_of()
    return make_results(plan, baseline=nights(plan, {}, {}))


def failing() -> Results:
    """Return a run of three models that fail by one new cause."""
    plan = plan_of()
    faults = {f"test_forward_equivalence[{name}]": mismatch(moe=name == "mixtral") for name in MODELS}
    faults |= {test: mismatch(moe=True) for test in plan.entries[2].tests if test.startswith("test_moe_implementation")}
    return make_results(plan, faults, baseline=nights(plan, {}, {}))


def mixed() -> Results:
    """Return a run with a new, a known and a fixed failure, skips, and a variant that did not run."""
    plan = plan_of(subject="fast_llm")
    known = Fault("failure", "AssertionError: tensor lm_head.weight is missing", "E  AssertionError: missing tensor")
    known = replace(known, evidence={"failure_class": "missing_tensor", "diagnosis": "lm_head.weight is missing"})
    oom = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 896.00 MiB"
    later = tuple(test for test in plan.entries[2].tests[2:])
    faults: dict[str, Fault | None] = {
        "test_hub_model_conversion[smollm2]": known,
        "test_conversion[mixtral]": Fault("failure", oom, f"E  {oom}", {"failure_class": "out_of_memory"}),
        **chain("mixtral", "test_conversion", oom, steps=later),
        "test_implementation[attention-flash-mistral]": did_not_run("attention=flash", "flash-attn"),
    }
    before = {"test_hub_model_conversion[smollm2]": known, "test_conversion[mistral]": mismatch()}
    return make_results(plan, faults, baseline=nights(plan, {}, before, before))


def crashed() -> Results:
    """Return a run with a dead worker, a missing result file and one that is cut off."""
    plan = plan_of()
    died = "worker 'gw0' crashed while running 'test_hub_integration.py::test_forward_equivalence[smollm2]'"
    crash = Fault("error", f'failed on setup with "{died}"', died, {"raw": ""})
    whole = junit(plan, {"test_forward_equivalence[smollm2]": crash}, only="smollm2")
    cut = junit(plan, only="mistral")
    files = {
        "smollm2": (Attempt(1, read_junit(whole)),),
        "mistral": (
            Attempt(1, read_junit(cut[: len(cut) // 2]), running=("test_implementation[attention-sdpa-mistral]",)),
        ),
    }
    jobs = {name: Job("failure", url=f"{RUN_URL}/job/{n}", seconds=61.0) for n, name in enumerate(MODELS, start=1)}
    return build_results(plan, files, jobs)


def neutral() -> Results:
    """Return a neutral run: the Hub was down for one model, another model is gated."""
    plan = plan_of("smollm2", "mistral", "mixtral")
    down = "the Hub answered 503 for HuggingFaceTB/SmolLM2-135M five times: try again later"
    faults: dict[str, Fault | None] = {
        "test_download_and_truncate[smollm2]": Fault(
            "failure", f"Failed: {down}", down, {"failure_class": "hub_unavailable"}
        ),
        **chain("smollm2", "test_download_and_truncate", down, steps=plan.entries[0].tests[1:]),
    }
    files = {
        "smollm2": (Attempt(1, read_junit(junit(plan, faults, only="smollm2"))),),
        "mixtral": (Attempt(1, read_junit(junit(plan, only="mixtral")), host={"gpu0": "NVIDIA H100 80GB HBM3"}),),
    }
    gated = Problem("gated", "mistralai/Mistral-7B-v0.1 is gated: accept its terms and set HF_TOKEN")
    return build_results(plan, files, problems={"mistral": gated})


HOSTILE = (
    "@octocat fixes #1 <img src=x onerror=alert(1)> [link](https://evil.example) ``` </details> "
    "<!-- hub-tests:board --> https://evil.example www.evil.example | pipe \u202egnp.exe\u2066 \x1b[31mred "
    "hf_abcdefghijklmnopqrstuvwxyz012345 :white_check_mark: **passed** ![](https://evil.example/x.png) org/repo#7 "
    "GH-12 a@b.example `tick` $x$ AKIAABCDEFGHIJKLMNOP https://user:pass@evil.example/ \u200bzero"
)


def hostile() -> Results:
    """Return a run in which every text of a test is an attack on the report."""
    plan = plan_of("smollm2", "mixtral")
    text = HOSTILE.replace("\x1b", "#x1B")
    wrong = wrong_forward()
    evil = replace(wrong["worst"], tensor=text, dtype="`|`", case="<b>", expected="@octocat", actual="|")
    faults: dict[str, Fault | None] = {
        "test_forward_equivalence[smollm2]": Fault(
            "failure",
            text,
            f"```\n</details>\n{text}\n````\n::set-output name=a::b\n# heading\n- @octocat",
            {**wrong, "diagnosis": text, "worst": evil, "measures": (evil,), "half": text, "libraries": {text: text}},
        ),
        "test_conversion[mixtral]": Fault("failure", text[:100] + "|", text, {"raw": "{" * 2000}),
        f"test_{text}[mixtral]": Fault("failure", "unplanned", "unplanned", {"raw": ""}),
        "test_hub_model_conversion[mixtral]": Fault("skipped", f"nothing to see here {text}", text),
    }
    return make_results(plan, faults)


def huge(models: int = 256) -> Results:
    """Return a run with more failures than fit into a comment, each with its own message."""
    known = {
        f"model-{index:03d}-{'x' * 40}": replace(
            MODELS["mixtral"], name=f"model-{index:03d}-{'x' * 40}", model_id=f"org/m{index}"
        )
        for index in range(models)
    }
    plan = plan_of("*", models=known)
    faults = {
        test: Fault("failure", f"AssertionError: {word(index)} {word(n)} is wrong", "E   boom\n" * 300, {"raw": ""})
        for index, entry in enumerate(plan.entries)
        for n, test in enumerate(entry.tests)
    }
    return make_results(plan, faults)


def word(number: int) -> str:
    """Return a word without digits for a number, so that fingerprints differ."""
    return "".join("abcdefghij"[int(digit)] for digit in str(number))
