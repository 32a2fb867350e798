"""The cluster's files: strictly valid, and what the real chart makes of them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import kubernetes_validate
import pytest
import yaml

from hub_runner.config import ProxySettings, SlotSpec
from hub_runner.kubernetes import render_manifests
from hub_runner.render import labels_by_gpu_count, render_host_files
from tests.runner_setup.conftest import ARC_CHARTS

if TYPE_CHECKING:
    from hub_runner.config import Config

VERSION = kubernetes_validate.latest_version()


def read(config: Config, name: str) -> Any:
    return yaml.safe_load(render_manifests(config)[name])


def strictly(kind: dict[str, Any]) -> None:
    kubernetes_validate.validate(kind, VERSION, strict=True)


def pod(values: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Pod", **values["template"]}


def test_there_is_a_scale_set_for_each_size_under_the_hosts_labels(config: Config) -> None:
    on_the_host = labels_by_gpu_count(config)
    for size in ("1", "2"):
        values = read(config, f"values-gpus-{size}.yaml")
        assert values["scaleSetLabels"] == on_the_host[size]
        assert values["githubConfigUrl"] == "https://github.com/org/repo"
        limits = values["template"]["spec"]["containers"][0]["resources"]["limits"]
        assert limits["nvidia.com/gpu"] == size
    assert "values-gpus-0.yaml" not in render_manifests(config)


def test_the_pod_the_policy_and_the_hook_are_strictly_valid(config: Config) -> None:
    strictly(pod(read(config, "values-gpus-1.yaml")))
    strictly(read(config, "network-policy.yaml"))
    strictly(read(config, "admission.yaml"))


def test_a_misspelt_key_is_noticed(config: Config) -> None:
    wrong = pod(read(config, "values-gpus-1.yaml"))
    wrong["spec"]["automountServiceAccountTokens"] = False
    with pytest.raises(kubernetes_validate.ValidationError):
        strictly(wrong)


def test_a_job_has_no_token_no_power_and_a_read_only_store(config: Config) -> None:
    spec = read(config, "values-gpus-2.yaml")["template"]["spec"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    (runner,) = spec["containers"]
    assert runner["securityContext"]["allowPrivilegeEscalation"] is False
    assert runner["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    mounts = {mount["name"]: mount for mount in runner["volumeMounts"]}
    assert (mounts["store"]["mountPath"], mounts["store"]["readOnly"]) == ("/srv/hub-tests", True)
    assert {volume["name"] for volume in spec["volumes"]} == set(mounts)


@pytest.mark.parametrize(
    ("changes", "seccomp"),
    [
        ({}, {"type": "Unconfined"}),
        ({"seccomp_profile": "profiles/x.json"}, {"type": "Localhost", "localhostProfile": "profiles/x.json"}),
        ({"sandbox": False}, {"type": "RuntimeDefault"}),
    ],
)
def test_a_pod_may_hold_a_sandbox_in_a_user_namespace_of_its_own(
    config: Config, changes: dict[str, Any], seccomp: dict[str, str]
) -> None:
    assert config.kubernetes is not None
    cluster = replace(config.kubernetes, **changes)
    values = read(replace(config, kubernetes=cluster), "values-gpus-1.yaml")
    strictly(pod(values))
    spec = values["template"]["spec"]
    (runner,) = spec["containers"]
    assert spec["securityContext"]["seccompProfile"] == seccomp
    # Never one without the other: an unmasked /proc and no AppArmor are for pods with users of their own only.
    has_own_users = spec.get("hostUsers") is False
    assert has_own_users == cluster.sandbox
    assert (runner["securityContext"].get("procMount") == "Unmasked") == cluster.sandbox
    assert ("appArmorProfile" in spec["securityContext"]) == cluster.sandbox
    assert runner["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_the_policy_closes_what_the_firewall_closes(config: Config) -> None:
    spec = read(config, "network-policy.yaml")["spec"]
    assert (spec["ingress"], spec["policyTypes"]) == ([], ["Ingress", "Egress"])
    closed = {network for block in spec["egress"][-1]["to"] for network in block["ipBlock"]["except"]}
    rules = render_host_files(config)["etc/hub-runner/firewall.nft"].text
    assert {"169.254.0.0/16", "10.0.0.0/8", "fc00::/7"} <= closed
    assert all(network in rules for network in closed)


def test_listed_means_nothing_else_on_the_cluster_too(config: Config) -> None:
    listed = replace(config, egress=replace(config.egress, mode="listed"))
    assert len(read(listed, "network-policy.yaml")["spec"]["egress"]) == 1  # the cluster's DNS


def test_the_hook_is_the_hosts_and_runs(config: Config, tmp_path: Path) -> None:
    data = read(config, "admission.yaml")["data"]
    assert data["admission.json"] == render_host_files(config)["opt/hub-runner/admission.json"].text
    for name in ("admission_hook.py", "admission.json"):
        tmp_path.joinpath(name).write_text(data[name])
    command = [sys.executable, "-I", str(tmp_path / "admission_hook.py"), str(tmp_path / "admission.json")]
    answer = subprocess.run(command, env={}, capture_output=True, text=True, check=False)
    assert (answer.returncode, answer.stderr) == (1, "")
    assert "cannot be checked" in answer.stdout


def test_a_host_without_a_cluster_has_no_files_for_one(config: Config) -> None:
    assert render_manifests(replace(config, kubernetes=None)) == {}


def test_environments_are_where_the_host_built_them_and_read_only(config: Config) -> None:
    assert config.kubernetes is not None
    assert "environments" not in json.dumps(read(config, "values-gpus-1.yaml"))
    cluster = replace(config.kubernetes, environments_claim="envs")
    values = read(replace(config, kubernetes=cluster), "values-gpus-1.yaml")
    strictly(pod(values))
    spec = values["template"]["spec"]
    (mount,) = [each for each in spec["containers"][0]["volumeMounts"] if each["name"] == "environments"]
    assert (mount["mountPath"], mount["readOnly"]) == ("/var/lib/hub-runner/environments", True)
    assert {"name": "HUB_TESTS_SHARED_ENVIRONMENTS", "value": mount["mountPath"]} in spec["containers"][0]["env"]
    (volume,) = [each for each in spec["volumes"] if each["name"] == "environments"]
    assert volume["persistentVolumeClaim"] == {"claimName": "envs", "readOnly": True}


def test_the_proxy_is_the_charts(config: Config) -> None:
    url = "http://proxy.example.org:3128"
    values = read(replace(config, proxy=ProxySettings(url, ("localhost",))), "values-gpus-1.yaml")
    assert values["proxy"] == {"http": {"url": url}, "https": {"url": url}, "noProxy": ["localhost"]}
    assert "proxy" not in read(config, "values-gpus-1.yaml")


# With the real chart ------------------------------------------------------------------------------------------------


@pytest.fixture
def charts() -> Path:
    if not ARC_CHARTS:
        pytest.skip("HUB_TESTS_ARC_CHARTS names no checkout of actions-runner-controller's folder charts")
    if not shutil.which("helm") and find_spec("helm_python") is None:
        pytest.skip("neither helm nor helm-python-sdk is installed")
    return Path(ARC_CHARTS)


def rendered(chart: Path, values: dict[str, Any]) -> list[dict[str, Any]]:
    """What `helm template` makes of the values, by helm or by its SDK. On a cluster the chart finds the controller."""
    values = {**values, "controllerServiceAccount": {"namespace": "arc-systems", "name": "arc"}}
    if shutil.which("helm"):
        command = ["helm", "template", "gpus", str(chart), "--namespace", "hub-tests", "--values", "-"]
        text = subprocess.run(command, input=json.dumps(values), capture_output=True, text=True, check=True).stdout
    else:
        import helm_python

        with helm_python.Chart.load(str(chart)) as loaded:
            made = loaded.render(values, name="gpus", namespace="hub-tests")
        text = "\n---\n".join(manifest for name, manifest in made.items() if name.endswith(".yaml"))
    return [each for each in yaml.safe_load_all(text) if each]


def custom(charts: Path, name: str) -> dict[str, Any]:
    """The schema of a custom resource, made strict: Kubernetes itself would prune what it does not know."""
    path = charts / f"gha-runner-scale-set-controller/crds/actions.github.com_{name}.yaml"
    schema = yaml.safe_load(path.read_text())["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    made: dict[str, Any] = strict(schema)
    return made


def strict(schema: Any) -> Any:
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: strict(value) for key, value in schema.items()}
    if schema.get("x-kubernetes-int-or-string"):
        made.pop("anyOf", None)
    # metadata is Kubernetes' own everywhere, and the schema leaves it open.
    if isinstance(schema.get("properties"), dict):
        made["additionalProperties"] = False
        made["properties"]["metadata"] = {"type": "object"}
    return made


def let_nightly_pods_fill(config: Config) -> Config:
    """The same with a slot and a volume for compiled code, which a scale set of its own fills."""
    assert config.kubernetes is not None
    cluster = replace(config.kubernetes, compile_cache_claim="kept")
    return replace(config, kubernetes=cluster, slots=(*config.slots, SlotSpec(gpus=(7,), fills_compile_cache=True)))


@pytest.mark.parametrize(("name", "size"), [("gpus-1", "1"), ("gpus-2", "2"), ("nightly", "1")])
def test_the_real_chart_renders_what_was_meant(config: Config, charts: Path, name: str, size: str) -> None:
    from jsonschema import Draft202012Validator

    values = read(let_nightly_pods_fill(config), f"values-{name}.yaml")
    made = {each["kind"]: each for each in rendered(charts / "gha-runner-scale-set", values)}
    scale_set = made.pop("AutoscalingRunnerSet")
    Draft202012Validator(custom(charts, "autoscalingrunnersets")).validate(scale_set)
    for each in made.values():
        strictly(each)
    spec = scale_set["spec"]
    assert spec["runnerScaleSetLabels"] == values["scaleSetLabels"]
    assert (spec["minRunners"], spec["maxRunners"], spec["githubConfigSecret"]) == (0, 4, "hub-tests-github-app")
    of_job = spec["template"]["spec"]
    strictly({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": of_job})
    assert of_job["automountServiceAccountToken"] is False
    assert of_job["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == size
    assert of_job["nodeSelector"] == values["template"]["spec"]["nodeSelector"]
    assert of_job["tolerations"] == values["template"]["spec"]["tolerations"]
    assert of_job["volumes"] == values["template"]["spec"]["volumes"]
    assert of_job["containers"][0]["volumeMounts"] == values["template"]["spec"]["containers"][0]["volumeMounts"]
    assert spec["runnerScaleSetName"] == values["runnerScaleSetName"]
    assert spec["template"]["metadata"]["labels"]["app"] == "hub-tests-runner"  # what the network policy selects
    accounts = made["ServiceAccount"]
    assert of_job["serviceAccountName"] == accounts["metadata"]["name"]


def test_the_real_chart_knows_every_key_of_the_values(config: Config, charts: Path) -> None:
    """helm ignores a key that it does not know: each one removed must change what is rendered."""
    proxied = replace(config, proxy=ProxySettings("http://proxy.example.org:3128"))
    values = read(proxied, "values-gpus-1.yaml")
    chart = charts / "gha-runner-scale-set"

    def without_hash(made: list[dict[str, Any]]) -> str:
        for each in made:
            (each["metadata"].get("annotations") or {}).pop("actions.github.com/values-hash", None)
        return json.dumps(made, sort_keys=True)

    whole = without_hash(rendered(chart, values))
    for key in sorted(set(values) - {"githubConfigUrl", "githubConfigSecret"}):
        less = {name: value for name, value in values.items() if name != key}
        assert without_hash(rendered(chart, less)) != whole, key


def test_compiled_code_is_written_by_the_nightly_pods_alone(config: Config, tmp_path: Path) -> None:
    assert "compiled" not in json.dumps(read(config, "values-gpus-1.yaml"))
    filling = let_nightly_pods_fill(config)
    assert "values-nightly.yaml" not in render_manifests(replace(filling, slots=config.slots))
    assert "values-nightly.yaml" not in render_manifests(replace(filling, kubernetes=config.kubernetes))
    for name, writes in (("values-gpus-1.yaml", False), ("values-nightly.yaml", True)):
        values = read(filling, name)
        strictly(pod(values))
        spec = values["template"]["spec"]
        (mount,) = [each for each in spec["containers"][0]["volumeMounts"] if each["name"] == "compiled"]
        assert (mount["mountPath"], mount["readOnly"]) == ("/var/lib/hub-runner/compiled", not writes)
        (volume,) = [each for each in spec["volumes"] if each["name"] == "compiled"]
        assert volume["persistentVolumeClaim"] == {"claimName": "kept", "readOnly": not writes}
        (hook,) = [each["configMap"]["name"] for each in spec["volumes"] if each["name"] == "admission"]
        assert ("hub-tests-nightly" in values["scaleSetLabels"]) is writes
        admission = read(filling, "admission-nightly.yaml" if writes else "admission.yaml")
        assert admission["metadata"]["name"] == hook
        fillers = json.loads(admission["data"]["admission.json"])["nightly_uids"]
        assert (spec["securityContext"]["runAsUser"] in fillers) is writes
