"""The images: what goes in, as whom they run, and how a container is found well."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

from deploy.docker.requirements import requirements
from shared.settings import Settings, variable
from tests.dockerfile import ROOT, Replay, context_files, ignored, read
from tests.servers import need

DOCKER = ROOT / "deploy" / "docker"
IMAGES = {name: read(DOCKER / f"{name}.Dockerfile") for name in ("api", "worker")}
FOREIGN = {
    "api": {"torch", "diffusers", "numpy", "deploy"},
    "worker": {"torch", "fastapi", "uvicorn", "api", "deploy"},
}
PYPROJECT = (ROOT / "pyproject.toml").read_text("utf-8")


def contents(image: str) -> list[str]:
    """The files of this project that a build sees."""
    copies = [i for stage in IMAGES[image].values() for i in stage if i.from_context]
    files = (context_files(copy.paths[:-1]) for copy in copies)
    return sorted(f.relative_to(ROOT).as_posix() for some in files for f in some)


@pytest.mark.parametrize("image", IMAGES)
def test_whatever_is_copied_exists_and_is_not_ignored(image: str) -> None:
    for stage in IMAGES[image].values():
        for copy in (i for i in stage if i.from_context):
            for source in copy.paths[:-1]:
                assert (ROOT / source).exists(), source
                assert context_files([source]), f"{source} is ignored"


@pytest.mark.parametrize(
    "path",
    [".git/config", ".env", "data/redis/redis.conf", "tests/manifests.py", "api/__pycache__/x.pyc",
     "deploy/compose/secrets/api_keys", "deploy/local.py", ".venv/bin/python"],
)  # fmt: skip
def test_history_data_tests_and_secrets_never_reach_a_build(path: str) -> None:
    assert ignored(path)


def test_the_api_image_holds_no_worker_but_its_chores_and_the_worker_image_no_api() -> None:
    workers = {name for name in contents("api") if name.startswith("worker/")}
    folders = {name.split("/")[0] for name in contents("worker")}

    assert workers == {f"worker/{n}.py" for n in ("__init__", "chores", "liveness", "webhooks")}
    assert {"worker", "shared", "cli"} <= folders
    assert not {"api", "tests", "benchmarks"} & folders
    assert not any(name.startswith("deploy/") and "docker/" not in name for name in contents("api"))


def test_the_api_image_asks_for_nothing_that_draws() -> None:
    names = {re.split(r"[><=\[; ]", line)[0] for line in requirements(PYPROJECT, ["api", "traces"])}

    assert {"fastapi", "uvicorn", "redis", "celery"} <= names
    assert not {"torch", "diffusers", "transformers", "numpy"} & names


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_asks_for_extras_that_exist(image: str) -> None:
    runs = " ".join(i.text for i in IMAGES[image]["build"] if i.word == "RUN")
    extras = re.search(r"requirements\.py ([a-z ]+) >", runs)

    assert extras
    assert requirements(PYPROJECT, extras[1].split())


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_is_pinned_runs_as_nobody_special_and_tells_if_it_is_well(image: str) -> None:
    stages = IMAGES[image]
    last = {i.word: i.text for i in stages["image"]}
    version = tomllib.loads(PYPROJECT)["project"]["version"]

    assert re.search(r":\d+\.\d+\.\d+-", stages["base"][0].text)
    assert last["USER"] == "10001:10001"
    assert last["ENTRYPOINT"] == '["renderfarm"]'
    assert '["healthy"]' in last["HEALTHCHECK"]
    assert f'version="{version}"' in last["LABEL"]
    assert not any(i.word in ("ADD", "ARG") for stage in stages.values() for i in stage)


@pytest.mark.parametrize("image", IMAGES)
def test_what_an_image_sets_are_settings(image: str) -> None:
    given = re.findall(r"\bFARM_\w+(?==)", " ".join(i.text for i in IMAGES[image]["image"]))

    assert given
    assert set(given) <= set(map(variable, Settings.model_fields))


@pytest.mark.parametrize(
    ("image", "imports", "command"),
    [
        ("api", "api.main, worker.chores, shared.otel", ["api", "--help"]),
        ("api", "worker.chores, cli.plan, cli.keys, cli.audit", ["chores", "--help"]),
        ("api", "worker", ["--help"]),
        ("worker", "worker.main, worker.keeper, shared.otel", ["worker", "--help"]),
        ("worker", "worker", ["--help"]),
    ],
)
def test_the_files_of_an_image_are_all_that_its_command_needs(
    tmp_path: Path, image: str, imports: str, command: list[str]
) -> None:
    Replay(tmp_path).do([i for i in IMAGES[image]["build"] if i.word == "COPY"])
    code = (
        f"import sys, {imports}; from cli.main import main\n"
        "assert worker.__file__.startswith(sys.argv[1]), worker.__file__\n"
        f"assert not {FOREIGN[image]} & set(sys.modules)\n"
        "main(sys.argv[2:], prog_name='renderfarm')"
    )

    env = {"PYTHONPATH": str(tmp_path), "PATH": os.environ["PATH"]}
    arguments = [sys.executable, "-P", "-c", code, str(tmp_path), *command]
    done = subprocess.run(arguments, env=env, cwd=tmp_path, capture_output=True, text=True)

    assert (done.returncode, done.stderr) == (0, "")
    assert "Usage: renderfarm" in done.stdout


def healthy(*words: str, **env: str) -> int:
    need("sh", "find")
    full = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", **env}
    done = subprocess.run([DOCKER / "healthy", *words], env=full, capture_output=True)
    return done.returncode


@pytest.mark.parametrize(
    ("state", "alive", "loaded", "ready"),
    [("loading", True, False, False), ("ready", True, True, True), ("busy", True, True, True),
     ("draining", True, True, False), ("quarantined", True, True, False)],
)  # fmt: skip
def test_probes_read_a_workers_state_in_its_file(
    tmp_path: Path, state: str, alive: bool, loaded: bool, ready: bool
) -> None:
    file = tmp_path / "alive"
    file.write_text(state + "\n")

    answers = [
        healthy(*words, FARM_LIVENESS_FILE=str(file)) for words in ([], ["loaded"], ["ready"])
    ]

    assert [code == 0 for code in answers] == [alive, loaded, ready]


def test_a_worker_that_stopped_beating_is_not_well(tmp_path: Path) -> None:
    file = tmp_path / "alive"
    file.write_text("ready\n")
    minutes_ago = time.time() - 120
    os.utime(file, (minutes_ago, minutes_ago))

    assert healthy(FARM_LIVENESS_FILE=str(file)) != 0
    assert healthy(FARM_LIVENESS_FILE=str(tmp_path / "never")) != 0


def test_without_a_file_it_is_the_api_that_is_asked() -> None:
    assert healthy(FARM_PORT="1") != 0  # nobody listens
