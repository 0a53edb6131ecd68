"""Checks the deployment files with the tools that read them: `python -m tests.manifests`.

Each check raises Wrong with what the tool says, or Missing where the tool is not installed.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
OVERLAYS = sorted(folder.name for folder in (KUBERNETES / "overlays").iterdir())
MODELS = sorted(folder.name for folder in (KUBERNETES / "models").iterdir())
SCHEMAS = Path(__file__).with_name("schemas")
TOOLS = Path(sys.executable).parent
OLDEST_KUBECTL = (1, 27)  # its kustomize knows components and labels


class Wrong(Exception):
    """A file is not what its tool expects."""


class Missing(Exception):
    """The tool is not installed here."""


def check_dockerfiles() -> None:
    run(TOOLS / "hadolint", *sorted((DEPLOY / "docker").glob("*.Dockerfile")))


def check_compose() -> None:
    check_schema("vendor.compose-spec", DEPLOY / "compose" / "compose.yaml")


def check_workflows() -> None:
    check_schema("vendor.github-workflows", *sorted((ROOT / ".github/workflows").glob("*.yml")))


def check_kubernetes() -> None:
    """Every resource as it is written."""
    for file in sorted(KUBERNETES.rglob("*.yaml")):
        if file.name != "kustomization.yaml":
            for resource in yaml.safe_load_all(file.read_text("utf-8")):
                check_resource(resource, str(file.relative_to(ROOT)))


def check_overlays() -> None:
    """Every resource as `kubectl kustomize` makes it."""
    for overlay in OVERLAYS:
        for resource in rendered(f"overlays/{overlay}"):
            check_resource(resource, overlay)


def check_units() -> None:
    with tempfile.TemporaryDirectory() as folder:
        for unit in (DEPLOY / "systemd").glob("renderfarm*.*"):
            text = unit.read_text("utf-8").replace("/opt/renderfarm/bin/renderfarm", "/bin/true")
            Path(folder, unit.name.replace("@.", "@0.")).write_text(text, "utf-8")
        units = sorted(Path(folder).glob("*.service")) + sorted(Path(folder).glob("*.target"))
        said = run("systemd-analyze", "verify", "--recursive-errors=yes", *units)
        if said:
            raise Wrong(said)


CHECKS = {
    "images": check_dockerfiles,
    "compose": check_compose,
    "workflows": check_workflows,
    "kubernetes": check_kubernetes,
    "overlays": check_overlays,
    "systemd": check_units,
}


def check_schema(name: str, *files: Path) -> None:
    run(TOOLS / "check-jsonschema", "--builtin-schema", name, *files)


def check_resource(resource: dict[str, Any], where: str) -> None:
    """Against Kubernetes' own schema, else against ours of the few fields that we use."""
    name = f"{where}: {resource['kind']} {resource['metadata']['name']}"
    schema = f"{resource['apiVersion'].replace('/', '_')}_{resource['kind']}.json"
    try:
        if (SCHEMAS / schema).exists():
            jsonschema.validate(resource, json.loads((SCHEMAS / schema).read_text("utf-8")))
        else:
            kubernetes_validate.validate(resource, kubernetes_validate.latest_version(), True)
    except (jsonschema.ValidationError, kubernetes_validate.ValidationError) as error:
        raise Wrong(f"{name}: {error.message}") from error
    except kubernetes_validate.SchemaNotFoundError as error:
        raise Wrong(f"{name}: no schema for it") from error


def rendered(folder: str) -> list[dict[str, Any]]:
    """The resources of one kustomization, with the example secrets."""
    need_kubectl()
    with tempfile.TemporaryDirectory() as made:
        tree = Path(made, "kubernetes")
        shutil.copytree(KUBERNETES, tree)
        for example in tree.rglob("*.env.example"):
            example.rename(example.with_suffix(""))
        return list(yaml.safe_load_all(run("kubectl", "kustomize", tree / folder)))


def need_kubectl() -> None:
    told = json.loads(run("kubectl", "version", "--client", "-o", "json"))["clientVersion"]
    version = int(told["major"]), int(re.sub(r"\D.*", "", told["minor"]))
    if version < OLDEST_KUBECTL:
        raise Missing(f"kubectl {version[0]}.{version[1]} is too old")


def run(program: str | Path, *arguments: str | Path) -> str:
    """What the program says, on success."""
    if not shutil.which(str(program)):
        raise Missing(f"{Path(program).name} is not installed")
    done = subprocess.run(
        [program, *arguments], capture_output=True, text=True, cwd=ROOT, timeout=120
    )
    if done.returncode:
        raise Wrong(done.stdout + done.stderr)
    return done.stdout + done.stderr


def results() -> Iterator[tuple[str, str, bool]]:
    for name, check in CHECKS.items():
        try:
            check()
        except Missing as reason:
            yield name, f"skipped: {reason}", True
        except Wrong as fault:
            yield name, f"wrong\n{fault}", False
        else:
            yield name, "good", True


def main() -> int:
    good = True
    for name, told, passed in results():
        print(f"{name}: {told}")
        good = good and passed
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
