"""Kubernetes: what the schemas cannot know of the farm's needs."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from functools import cache
from typing import Any

import promql_parser
import pytest

from deploy.local import DRAIN_MARGIN_S
from shared.catalog import load_catalog
from shared.settings import load_settings
from tests.manifests import MODELS, OVERLAYS, Missing, rendered

Resource = dict[str, Any]
PODS = [(overlay, name) for overlay in OVERLAYS for name in ("api", "chores", "worker")]
PREDICTED = "renderfarm_backlog_gpu_seconds"
RENDERED = "renderfarm_gpu_seconds_total"


@cache
def resources(overlay: str) -> tuple[Resource, ...]:
    try:
        return tuple(rendered(f"overlays/{overlay}"))
    except Missing as reason:
        pytest.skip(str(reason))


def of_kind(overlay: str, *kinds: str) -> list[Resource]:
    return [each for each in resources(overlay) if each["kind"] in kinds]


def pods(overlay: str) -> Iterator[tuple[Resource, Resource]]:
    """Each pod's labels and its spec."""
    for each in of_kind(overlay, "Deployment", "StatefulSet"):
        template = each["spec"]["template"]
        yield template["metadata"]["labels"], template["spec"]


def named(overlay: str, name: str) -> list[Resource]:
    return [spec for labels, spec in pods(overlay) if labels["app.kubernetes.io/name"] == name]


def environment(overlay: str, container: Resource) -> dict[str, str]:
    """What this container gets, from its settings, the example secrets and itself."""
    env: dict[str, str] = {}
    for source in container["envFrom"]:
        if ref := source.get("configMapRef"):
            (kept,) = (e for e in of_kind(overlay, "ConfigMap") if names(e) == ref["name"])
            env |= kept["data"]
        for kept in of_kind(overlay, "Secret"):
            if names(kept) == source.get("secretRef", {}).get("name"):
                env |= {k: base64.b64decode(v).decode() for k, v in kept["data"].items()}
    return env | {each["name"]: each.get("value", "pod") for each in container.get("env", ())}


def names(resource: Resource) -> str:
    return str(resource["metadata"]["name"])


@pytest.mark.parametrize(("overlay", "part"), PODS)
def test_the_farm_accepts_the_settings_of_each_pod(overlay: str, part: str) -> None:
    for spec in named(overlay, part):
        settings = load_settings(environment(overlay, spec["containers"][0]))

        assert settings.durability == "always"
        assert settings.s3_bucket == "renderfarm"
        assert settings.default_model in load_catalog().entries


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_service_of_the_cluster_becomes_a_setting(overlay: str) -> None:
    """Kubernetes would set FARM_PORT in each pod for a service named `farm`."""
    assert all(spec["enableServiceLinks"] is False for _, spec in pods(overlay))


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_container_keeps_to_the_restricted_standard(overlay: str) -> None:
    for _, spec in pods(overlay):
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
        assert spec["automountServiceAccountToken"] is False
        for container in spec["containers"]:
            rights = container["securityContext"]
            assert rights["allowPrivilegeEscalation"] is False
            assert rights["readOnlyRootFilesystem"] is True
            assert rights["capabilities"]["drop"] == ["ALL"]
            assert "memory" in container["resources"]["limits"]
            assert ":" in container["image"].rsplit("/", 1)[-1]
            assert container["livenessProbe"]
            assert container["startupProbe"]


@pytest.mark.parametrize(("overlay", "part"), PODS)
def test_a_pod_is_given_the_time_its_drain_takes(overlay: str, part: str) -> None:
    for spec in named(overlay, part):
        (container,) = spec["containers"]
        settings = load_settings(environment(overlay, container))
        sleep_s = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {"seconds": 0})
        drain_s = {"api": settings.api_drain_s + 30, "worker": settings.drain_s + DRAIN_MARGIN_S}

        needed_s = sleep_s["seconds"] + drain_s.get(part, 10)
        assert spec["terminationGracePeriodSeconds"] >= needed_s


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_worker_has_one_gpu_its_weights_and_an_hour_to_load_them(overlay: str) -> None:
    workers = named(overlay, "worker")

    assert workers
    for spec in workers:
        (container,) = spec["containers"]
        probe = container["startupProbe"]
        claims = {v["persistentVolumeClaim"]["claimName"] for v in spec["volumes"] if len(v) == 2
                  and "persistentVolumeClaim" in v}  # fmt: skip
        assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
        assert probe["periodSeconds"] * probe["failureThreshold"] >= 3600
        assert container["readinessProbe"]["exec"]["command"] == ["healthy", "ready"]
        assert claims <= {names(each) for each in of_kind(overlay, "PersistentVolumeClaim")}
        assert claims


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_each_worker_serves_a_model_that_the_farm_knows(overlay: str) -> None:
    for spec in named(overlay, "worker"):
        arguments = spec["containers"][0]["args"]
        assert arguments[0] == "worker"
        assert arguments[arguments.index("--model") + 1] in load_catalog().entries


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_traces_find_their_way_to_a_collector(overlay: str) -> None:
    (policy,) = (each["spec"] for each in of_kind(overlay, "NetworkPolicy") if names(each) == "out")
    (chosen,) = policy["podSelector"]["matchExpressions"]
    open_ports = {port["port"] for rule in policy["egress"] for port in rule["ports"]}

    assert set(chosen["values"]) == {"api", "chores", "worker"}
    assert 4318 in open_ports


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_selectors_select_pods_that_are_there(overlay: str) -> None:
    every = [labels for labels, _ in pods(overlay)]
    for each in of_kind(overlay, "Service", "PodDisruptionBudget", "PodMonitor", "NetworkPolicy"):
        spec = each["spec"]
        selector = spec.get("podSelector", spec.get("selector", {}))
        wanted = selector.get("matchLabels", {} if "matchExpressions" in selector else selector)
        assert any(wanted.items() <= labels.items() for labels in every), names(each)
    monitored = [each["spec"]["selector"] for each in of_kind(overlay, "ServiceMonitor")]
    services = [each["metadata"]["labels"] for each in of_kind(overlay, "Service")]
    for selector in monitored:
        assert any(selector["matchLabels"].items() <= labels.items() for labels in services)


def test_workers_scale_with_the_seconds_of_their_own_model_that_wait_and_that_were_rendered() -> (
    None
):
    scaled = of_kind("production", "ScaledObject")
    workers = {names(each): each["spec"] for each in of_kind("production", "Deployment")}

    assert {names(each) for each in scaled} == {n for n in workers if n.startswith("worker-")}
    for each in scaled:
        spec = each["spec"]
        target = workers[spec["scaleTargetRef"]["name"]]
        queries = [promql_parser.parse(each["metadata"]["query"]) for each in spec["triggers"]]
        waits, rendered_of_late = queries[0].expr, queries[1].expr.args[0].vector_selector
        model = target["template"]["spec"]["containers"][0]["args"][-1]
        assert "replicas" not in target, "the autoscaler and kubectl apply would fight"
        assert (waits.name, rendered_of_late.name) == (PREDICTED, RENDERED)
        for series in (waits, rendered_of_late):
            assert [(m.name, m.value) for m in series.matchers.matchers] == [("model", model)]
        assert spec["minReplicaCount"] == 0


def test_a_scaled_down_worker_may_finish_before_another_is_taken() -> None:
    for each in of_kind("production", "ScaledObject"):
        down = each["spec"]["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]["scaleDown"]
        assert down["stabilizationWindowSeconds"] >= 300
        assert down["policies"] == [{"type": "Pods", "value": 1, "periodSeconds": 120}]


@pytest.mark.parametrize("model", MODELS)
def test_two_models_side_by_side_share_no_name(model: str) -> None:
    try:
        made = rendered(f"models/{model}")
    except Missing as reason:
        pytest.skip(str(reason))

    assert all(names(each).endswith(f"-{model}") for each in made)
    selectors = [each["spec"]["selector"] for each in made if "selector" in each["spec"]]
    assert all("renderfarm/model" in selector["matchLabels"] for selector in selectors)
