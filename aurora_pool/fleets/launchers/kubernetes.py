"""Agents in Kubernetes: a manifest, which its user applies. The kubelet, not our supervisor, starts engines again."""

from __future__ import annotations

import re
from typing import Any

from aurora_pool.errors import ConfigError, counted
from aurora_pool.fleets.engines import engine_command
from aurora_pool.fleets.launchers.common import Launcher
from aurora_pool.fleets.run_folder import RunFolder
from aurora_pool.fleets.spec import Fleet, Group

PORT = 8000
"""Where engines listen, if the group names no port."""
_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
_RESOURCES = {"cuda": "nvidia.com/gpu", "rocm": "amd.com/gpu", "xpu": "gpu.intel.com/i915"}


class Kubernetes(Launcher):
    """Writes a Deployment, and a headless service whose addresses are the pods that are ready."""

    def script(self, run: RunFolder, fleet: Fleet, group: Group) -> str:
        """Write the manifest. Raises :class:`ConfigError` if no image is named, and for what none can say."""
        import yaml  # noqa: PLC0415 (slow to import)

        if not group.image:
            raise ConfigError("image: expected a container's image, as where is kubernetes")
        if group.options:
            raise ConfigError("options: there is no command that takes them, as where is kubernetes")
        for key, value in group.tags.items():
            if key == "app" or not (_LABEL.fullmatch(key) and _LABEL.fullmatch(str(value))):
                raise ConfigError(
                    f"tags: {key}={value} can't be a pod's label: expected up to 63 letters, digits, '-', '_' and '.', "
                    "the first and last a letter or a digit, and no tag 'app'"
                )
        port = group.port or PORT
        name = f"{run.path.name.removesuffix('.run')}-{group.name}".lower().replace("_", "-").replace(".", "-")
        documents = [_service(name, port), _deployment(name, port, group)]
        manifest = yaml.safe_dump_all(documents, sort_keys=False, default_flow_style=False)
        return (
            f"# {counted(group.agents, 'agent')} of group {group.name!r}. "
            "Bring them up, use them from a pod, take them down:\n"
            "#     kubectl apply -f THIS_FILE\n"
            f"#     aurora-pool run ... --hostfile k8s://{name}.NAMESPACE:{port}\n"
            "#     kubectl delete -f THIS_FILE\n" + manifest
        )

    def start(self, run: RunFolder, fleet: Fleet, group: Group) -> list[str]:
        """Start nothing: the manifest is applied by somebody with the rights to."""
        return []

    def waiting(self, handle: list[str]) -> str:
        """Nothing is known here."""
        return "see kubectl get pods"

    def stop(self, run: RunFolder, handle: list[str]) -> list[str]:
        """Stop nothing, for the same reason."""
        return []


def _service(name: str, port: int) -> dict[str, Any]:
    spec = {"clusterIP": "None", "selector": {"app": name}, "ports": [{"name": "http", "port": port}]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}


def _deployment(name: str, port: int, group: Group) -> dict[str, Any]:

    def probe(**limits: int) -> dict[str, Any]:
        return {"httpGet": {"path": "/health", "port": port}, "periodSeconds": 10, **limits}

    container: dict[str, Any] = {
        "name": "engine",
        "image": group.image,
        "command": ["/bin/bash", "-c", engine_command(group.engine, "0.0.0.0", port)],  # noqa: S104 - of its pod only
        "env": [{"name": key, "value": str(value)} for key, value in group.engine.env.items()],
        "ports": [{"containerPort": port}],
        "readinessProbe": probe(),
        "startupProbe": probe(failureThreshold=max(1, int(group.ready_within / 10))),
        "livenessProbe": probe(failureThreshold=6, timeoutSeconds=30),
    }
    if group.gpus_per_agent:
        container["resources"] = {"limits": {_RESOURCES[group.gpus]: group.gpus_per_agent}}
    pod = {"terminationGracePeriodSeconds": int(group.drain) + 10, "containers": [container]}
    labels = {"app": name} | {key: str(value) for key, value in group.tags.items()}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "replicas": group.agents,
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }
