"""Renders the runners for a cluster: values for actions-runner-controller's chart gha-runner-scale-set, and policies.

There is one scale set for each number of GPUs, with the labels of the host's slots: so the workflows stay the same.
https://docs.github.com/en/actions/hosting-your-own-runners/managing-self-hosted-runners-with-actions-runner-controller
"""

from __future__ import annotations

import json
from importlib import resources
from typing import TYPE_CHECKING, Any

from hub_runner.admission_policy import build_policy
from hub_runner.config import NIGHTLY_LABEL
from hub_runner.layout import Layout
from hub_runner.networks import CLOSED4, CLOSED6

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hub_runner.config import Config, KubernetesSettings

RUNNER_UID = 1001
"""The user id in GitHub's runner image."""

APP = "hub-tests-runner"
ENVIRONMENTS, COMPILED = str(Layout().environments), str(Layout().compiled)
ADMISSION, HOOK = f"{APP}-admission", "/etc/hub-runner"
NIGHTLY = f"{APP}-admission-nightly"


def render_manifests(config: Config) -> Mapping[str, str]:
    """Render values for each scale set, and the policies; nothing without a [kubernetes] table."""
    cluster = config.kubernetes
    if cluster is None:
        return {}
    sizes = sorted({len(slot.gpus) for slot in config.resolved_slots if slot.gpus and not slot.fills_compile_cache})
    values = {f"values-gpus-{size}.yaml": _format_yaml(build_scale_set_values(config, cluster, size)) for size in sizes}
    return {
        **values,
        **_render_nightly(config, cluster),
        "network-policy.yaml": _format_yaml(build_network_policy(config, cluster)),
        "admission.yaml": _format_yaml(build_admission(config, cluster)),
    }


def _render_nightly(config: Config, cluster: KubernetesSettings) -> dict[str, str]:
    """Render the scale set that fills the compile cache, and its hook; nothing without a slot or a volume for it."""
    gpus = next((len(slot.gpus) for slot in config.resolved_slots if slot.fills_compile_cache), 0)
    if not (gpus and cluster.compile_cache_claim):
        return {}
    return {
        "values-nightly.yaml": _format_yaml(build_scale_set_values(config, cluster, gpus, nightly=True)),
        "admission-nightly.yaml": _format_yaml(build_admission(config, cluster, nightly=True)),
    }


def _format_yaml(value: Any) -> str:
    # JSON is valid YAML, and needs no further dependency.
    return "# Rendered from hub-runner.toml.\n" + json.dumps(value, indent=2) + "\n"


def build_scale_set_values(
    config: Config, cluster: KubernetesSettings, gpus: int, *, nightly: bool = False
) -> dict[str, Any]:
    """Return the chart's values for runners with `gpus` GPUs; `nightly` ones fill the compile cache."""
    where = config.github.repository or config.github.organization
    return {
        "githubConfigUrl": f"{config.github.url}/{where}",
        "githubConfigSecret": cluster.secret,
        "runnerScaleSetName": f"{config.host.name}-nightly" if nightly else f"{config.host.name}-gpus-{gpus}",
        "scaleSetLabels": list(config.own_labels(NIGHTLY_LABEL) if nightly else config.runner_labels(gpus)),
        "minRunners": 0 if nightly else cluster.min_runners,
        "maxRunners": cluster.max_runners,
        **_build_proxy(config),
        "template": {
            "metadata": {"labels": {"app": APP}},
            "spec": build_pod_spec(config, cluster, gpus, nightly=nightly),
        },
    }


def _build_proxy(config: Config) -> dict[str, Any]:
    """Return the chart's proxy, for listener and runners; nothing without one."""
    proxy = config.proxy
    url = {"url": proxy.url}
    return {"proxy": {"http": url, "https": url, "noProxy": list(proxy.without)}} if proxy.url else {}


def build_pod_spec(config: Config, cluster: KubernetesSettings, gpus: int, *, nightly: bool = False) -> dict[str, Any]:
    """Return the pod of one job, with the same limits as the slot's unit."""
    return {
        # A user namespace of the pod's own: what a job may do with its sandbox never concerns the node's users.
        **({"hostUsers": False} if cluster.sandbox else {}),
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 90,
        "nodeSelector": dict(cluster.node_selector),
        "tolerations": [dict(each) for each in cluster.tolerations],
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": RUNNER_UID,
            "runAsGroup": RUNNER_UID,
            "fsGroup": RUNNER_UID,
            "fsGroupChangePolicy": "OnRootMismatch",
            **_build_sandbox_permissions(cluster),
        },
        "containers": [_build_container(config, cluster, gpus, nightly=nightly)],
        "volumes": _build_volumes(config, cluster, nightly=nightly),
    }


def _build_sandbox_permissions(cluster: KubernetesSettings) -> dict[str, Any]:
    """Return the pod's seccomp and AppArmor profiles; the usual ones forbid bubblewrap's mounts.

    https://kubernetes.io/docs/concepts/workloads/pods/user-namespaces/
    """
    if not cluster.sandbox:
        return {"seccompProfile": {"type": "RuntimeDefault"}}
    local = {"type": "Localhost", "localhostProfile": cluster.seccomp_profile}
    return {
        "seccompProfile": local if cluster.seccomp_profile else {"type": "Unconfined"},
        "appArmorProfile": {"type": "Unconfined"},
    }


def _build_container(config: Config, cluster: KubernetesSettings, gpus: int, *, nightly: bool) -> dict[str, Any]:
    limits = config.limits
    quantities = {
        "nvidia.com/gpu": str(gpus),
        "cpu": str(limits.cpus),
        "memory": f"{limits.memory_gib}Gi",
        "ephemeral-storage": f"{limits.disk_gib}Gi",
    }
    return {
        "name": "runner",
        "image": cluster.image,
        "command": ["/home/runner/run.sh"],
        "env": [
            {"name": "HUB_TESTS_CACHE", "value": config.runner.store},
            *([{"name": "HUB_TESTS_SHARED_ENVIRONMENTS", "value": ENVIRONMENTS}] if cluster.environments_claim else []),
            {"name": "ACTIONS_RUNNER_HOOK_JOB_STARTED", "value": f"{HOOK}/job-started.sh"},
        ],
        "resources": {"limits": quantities, "requests": quantities},
        "securityContext": {
            # The image lets its user call sudo. This setting stops sudo from working.
            "allowPrivilegeEscalation": False,
            "privileged": False,
            "capabilities": {"drop": ["ALL"]},
            # A sandbox may mount a /proc of its own only where the pod's /proc has nothing mounted over its parts.
            **({"procMount": "Unmasked"} if cluster.sandbox else {}),
        },
        "volumeMounts": [
            {"name": "store", "mountPath": config.runner.store, "readOnly": True},
            *_mount_environments(cluster),
            *_mount_compiled(cluster, nightly=nightly),
            {"name": "admission", "mountPath": HOOK, "readOnly": True},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108  the pod's own
            {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108  the pod's own
        ],
    }


def _mount_environments(cluster: KubernetesSettings) -> list[dict[str, Any]]:
    """Return the mount of the environments, at the path where a host built them."""
    mount = {"name": "environments", "mountPath": ENVIRONMENTS, "readOnly": True}
    return [mount] if cluster.environments_claim else []


def _mount_compiled(cluster: KubernetesSettings, *, nightly: bool) -> list[dict[str, Any]]:
    """Return the mount of compiled code, which the nightly runners alone may write."""
    mount = {"name": "compiled", "mountPath": COMPILED, "readOnly": not nightly}
    return [mount] if cluster.compile_cache_claim else []


def _build_volumes(config: Config, cluster: KubernetesSettings, *, nightly: bool) -> list[dict[str, Any]]:
    compiled = {"claimName": cluster.compile_cache_claim, "readOnly": not nightly}
    memory = {"medium": "Memory", "sizeLimit": f"{config.limits.tmp_gib}Gi"}
    environments = {"claimName": cluster.environments_claim, "readOnly": True}
    return [
        *([{"name": "environments", "persistentVolumeClaim": environments}] if cluster.environments_claim else []),
        *([{"name": "compiled", "persistentVolumeClaim": compiled}] if cluster.compile_cache_claim else []),
        {"name": "store", "persistentVolumeClaim": {"claimName": cluster.store_claim, "readOnly": True}},
        {"name": "admission", "configMap": {"name": NIGHTLY if nightly else ADMISSION, "defaultMode": 0o555}},
        {"name": "tmp", "emptyDir": {"sizeLimit": f"{config.limits.disk_gib}Gi"}},
        {"name": "shm", "emptyDir": memory},
    ]


def build_admission(config: Config, cluster: KubernetesSettings, *, nightly: bool = False) -> dict[str, Any]:
    """Return a ConfigMap with the host's admission hook and policy.

    All pods have one user id, so the nightly ones have a policy of their own.
    The runner image needs Python 3.11 for the hook.
    """
    policy = {**build_policy(config), **({"nightly_uids": [RUNNER_UID]} if nightly else {})}
    hook = f"#!/bin/sh\nset -eu\nexec python3 -I {HOOK}/admission_hook.py {HOOK}/admission.json\n"
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": NIGHTLY if nightly else ADMISSION, "namespace": cluster.namespace},
        "data": {
            "job-started.sh": hook,
            "admission_hook.py": resources.files("hub_runner")
            .joinpath("admission_hook.py")
            .read_text(encoding="utf-8"),
            "admission.json": json.dumps(policy, indent=2, sort_keys=True) + "\n",
        },
    }


def build_network_policy(config: Config, cluster: KubernetesSettings) -> dict[str, Any]:
    """Return a policy that closes runners to others, and opens DNS and the host's egress."""
    dns = {
        "to": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}}}],
        "ports": [{"protocol": protocol, "port": 53} for protocol in ("UDP", "TCP")],
    }
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": APP, "namespace": cluster.namespace},
        "spec": {
            "podSelector": {"matchLabels": {"app": APP}},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [],
            "egress": [dns, *_build_egress(config)],
        },
    }


def _build_egress(config: Config) -> list[dict[str, Any]]:
    listed = [
        {
            "to": [{"ipBlock": {"cidr": allow.network}}],
            "ports": [{"protocol": allow.protocol.upper(), "port": allow.port}],
        }
        for allow in config.egress.allow
    ]
    if config.egress.mode == "listed":
        return listed
    world4 = {"cidr": "0.0.0.0/0", "except": list(CLOSED4)}
    world6 = {"cidr": "::/0", "except": list(CLOSED6)}
    return [*listed, {"to": [{"ipBlock": world4}, {"ipBlock": world6}]}]
