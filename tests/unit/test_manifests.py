"""The deployment files pass the tools that read them, and those tools do notice what is wrong."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import manifests
from tests.manifests import CHECKS, DEPLOY, Missing, Wrong, check_resource


def passes(check: Callable[[], None]) -> None:
    try:
        check()
    except Missing as reason:
        pytest.skip(str(reason))


@pytest.mark.parametrize("name", CHECKS)
def test_the_deployment_files_pass_the_tool_that_reads_them(name: str) -> None:
    passes(CHECKS[name])


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The deployment files, to be spoilt."""
    shutil.copytree(DEPLOY, tmp_path / "deploy", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(manifests, "ROOT", tmp_path)
    monkeypatch.setattr(manifests, "DEPLOY", tmp_path / "deploy")
    monkeypatch.setattr(manifests, "KUBERNETES", tmp_path / "deploy/kubernetes")
    return tmp_path / "deploy"


@pytest.mark.parametrize(
    ("check", "file", "good", "bad"),
    [
        ("images", "docker/api.Dockerfile", "WORKDIR /src", "WORKDIR src"),
        ("compose", "compose/compose.yaml", "networks: [outside, store]", "network: [store]"),
        ("kubernetes", "kubernetes/base/api.yaml", "failureThreshold: 30", "failureTreshold: 30"),
        ("overlays", "kubernetes/models/tiny/kustomization.yaml", "../../worker", "../../wroker"),
        ("systemd", "systemd/renderfarm-api.service", "KillMode=mixed", "KilMode=mixed"),
    ],
)
def test_a_mistake_is_noticed(copy: Path, check: str, file: str, good: str, bad: str) -> None:
    text = (copy / file).read_text("utf-8")
    assert good in text
    (copy / file).write_text(text.replace(good, bad), "utf-8")
    if check == "overlays":  # which use the model of the mistake
        small = copy / "kubernetes/overlays/small/kustomization.yaml"
        small.write_text(small.read_text("utf-8").replace("models/sd35-medium", "models/tiny"))

    with pytest.raises(Wrong):
        passes(CHECKS[check])


def test_a_misspelt_field_of_the_autoscaler_is_noticed() -> None:
    scaled = {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "ScaledObject",
        "metadata": {"name": "worker"},
        "spec": {"scaleTargetRef": {"name": "worker"}, "minReplicas": 0, "triggers": []},
    }

    with pytest.raises(Wrong, match="minReplicas"):
        check_resource(scaled, "here")
