"""The same runners on a cluster: values for actions-runner-controller's chart gha-runner-scale-set, and a policy.

One scale set for each number of GPUs, under the labels of the host's slots, so that no workflow changes in the move.
https://docs.github.com/en/actions/hosting-your-own-runners/managing-self-hosted-runners-with-actions-runner-controller
"""

from __future__ import annotations

import json
from importlib import resources
from typing import TYPE_CHECKING, Any

from hub_runner.networks import CLOSED4, CLOSED6
from hub_runner.policy import policy

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hub_runner.config import Config, Kubernetes

CHART = "oci://ghcr.io/actions/actions-runner-controller-charts/gha-runner-scale-set"
RUNNER_UID = 1001
"""The user of GitHub's runner image."""

APP = "hub-tests-runner"
ADMISSION, HOOK = f"{APP}-admission", "/etc/hub-runner"


def manifests(config: Config) -> Mapping[str, str]:
    """Values for each scale set, and the network policy; nothing where the file has no [kubernetes]."""
    cluster = config.kubernetes
    if cluster is None:
        return {}
    sizes = sorted({len(slot.gpus) for slot in config.places if slot.gpus})
    values = {f"values-gpus-{size}.yaml": _yaml(scale_set(config, cluster, size)) for size in sizes}
    return {
        **values,
        "network-policy.yaml": _yaml(network_policy(config, cluster)),
        "admission.yaml": _yaml(admission(config, cluster)),
    }


def _yaml(value: Any) -> str:
    # JSON is YAML, with everything quoted, and needs no further dependency.
    return "# Rendered from hub-runner.toml.\n" + json.dumps(value, indent=2) + "\n"


def scale_set(config: Config, cluster: Kubernetes, gpus: int) -> dict[str, Any]:
    """Values of the chart for runners with so many GPUs."""
    where = config.github.repository or config.github.organization
    return {
        "githubConfigUrl": f"{config.github.url}/{where}",
        "githubConfigSecret": cluster.secret,
        "runnerScaleSetName": f"{config.host.name}-gpus-{gpus}",
        "scaleSetLabels": list(config.labels(gpus)),
        "minRunners": cluster.min_runners,
        "maxRunners": cluster.max_runners,
        "template": {"metadata": {"labels": {"app": APP}}, "spec": pod_spec(config, cluster, gpus)},
    }


def pod_spec(config: Config, cluster: Kubernetes, gpus: int) -> dict[str, Any]:
    """One job's pod: what the slot's unit says, in Kubernetes' words."""
    return {
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
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(config, cluster, gpus)],
        "volumes": _volumes(config, cluster),
    }


def _container(config: Config, cluster: Kubernetes, gpus: int) -> dict[str, Any]:
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
            {"name": "ACTIONS_RUNNER_HOOK_JOB_STARTED", "value": f"{HOOK}/job-started.sh"},
        ],
        "resources": {"limits": quantities, "requests": quantities},
        "securityContext": {
            # The image's user may use sudo; without new privileges it cannot.
            "allowPrivilegeEscalation": False,
            "privileged": False,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": "store", "mountPath": config.runner.store, "readOnly": True},
            {"name": "admission", "mountPath": HOOK, "readOnly": True},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108  the pod's own
            {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108  the pod's own
        ],
    }


def _volumes(config: Config, cluster: Kubernetes) -> list[dict[str, Any]]:
    memory = {"medium": "Memory", "sizeLimit": f"{config.limits.tmp_gib}Gi"}
    return [
        {"name": "store", "persistentVolumeClaim": {"claimName": cluster.store_claim, "readOnly": True}},
        {"name": "admission", "configMap": {"name": ADMISSION, "defaultMode": 0o555}},
        {"name": "tmp", "emptyDir": {"sizeLimit": f"{config.limits.disk_gib}Gi"}},
        {"name": "shm", "emptyDir": memory},
    ]


def admission(config: Config, cluster: Kubernetes) -> dict[str, Any]:
    """The host's admission hook as a ConfigMap: the same program, the same policy. The image needs Python 3.11."""
    hook = f"#!/bin/sh\nset -eu\nexec python3 -I {HOOK}/admit.py {HOOK}/admission.json\n"
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": ADMISSION, "namespace": cluster.namespace},
        "data": {
            "job-started.sh": hook,
            "admit.py": resources.files("hub_runner").joinpath("admit.py").read_text(encoding="utf-8"),
            "admission.json": json.dumps(policy(config), indent=2, sort_keys=True) + "\n",
        },
    }


def network_policy(config: Config, cluster: Kubernetes) -> dict[str, Any]:
    """Nobody reaches a runner; it reaches the cluster's DNS, and what the host's firewall would let it reach."""
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
            "egress": [dns, *_ways_out(config)],
        },
    }


def _ways_out(config: Config) -> list[dict[str, Any]]:
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
