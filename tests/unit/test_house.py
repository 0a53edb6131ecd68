"""The house rules that no linter knows: who may import what, and where things are spelled."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("api", "worker", "shared", "cli", "deploy", "renderfarm_client")


def imported_by(module: str) -> set[str]:
    """The top-level packages in memory after importing one module in a process of its own."""
    code = f"import sys, {module}; print(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def sources() -> list[tuple[str, str]]:
    files = (file for package in PACKAGES for file in (ROOT / package).rglob("*.py"))
    return [(file.relative_to(ROOT).as_posix(), file.read_text("utf-8")) for file in files]


def users_of(pattern: str) -> set[str]:
    return {name for name, text in sources() if re.search(pattern, text)}


@pytest.mark.parametrize("package", PACKAGES)
def test_each_package_is_ours_and_not_a_strangers(package: str) -> None:
    spec = find_spec(package)

    assert spec is not None
    assert spec.origin is not None
    assert Path(spec.origin).is_relative_to(ROOT), f"{package} comes from {spec.origin}"


@pytest.mark.parametrize(
    ("module", "never"),
    [
        ("api.app", {"torch", "diffusers", "transformers", "worker", "numpy"}),
        ("worker.main", {"fastapi", "starlette", "uvicorn", "api", "torch"}),
        ("worker.keeper", {"torch", "celery", "fastapi", "boto3"}),
        ("worker.chores", {"torch", "fastapi"}),
        ("cli.main", {"torch", "fastapi", "celery", "redis"}),
    ],
)
def test_what_an_import_must_not_drag_along(module: str, never: set[str]) -> None:
    assert not imported_by(module) & never


def test_settings_are_read_in_one_place() -> None:
    # deploy passes the environment on to its children, and reads CUDA's own variable there.
    others = users_of(r"os\.environ|getenv") - {"shared/settings.py"}

    assert all(name.startswith("deploy/") for name in others)


def test_keys_are_spelled_in_one_place() -> None:
    assert users_of(r"[\"']farm:") == {"shared/keys.py"}
    for script in (ROOT / "shared/store/lua").glob("*.lua"):
        assert "farm:" not in script.read_text("utf-8"), script


def test_metrics_are_made_in_one_place() -> None:
    makers = users_of(r"\b(Counter|Gauge|Histogram|Summary)(MetricFamily)?\(\s*f?[\"']")
    assert makers
    assert all(name.startswith("shared/metrics/") for name in makers)


def test_every_script_is_used_and_says_what_it_takes() -> None:
    from shared.store.scripts import LIB, SCRIPTS

    folder = ROOT / "shared/store/lua"
    files = {file.stem: file.read_text("utf-8") for file in folder.glob("*.lua")}
    library = {file.stem: file.read_text("utf-8") for file in (folder / "lib").glob("*.lua")}

    assert (set(files), set(library)) == (set(SCRIPTS), set(LIB))
    assert len(files) == len(SCRIPTS), "each once"
    assert all(text.startswith("-- ") for text in [*files.values(), *library.values()])
