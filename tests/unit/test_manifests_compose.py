"""Compose: one file to edit, nothing unpinned, nothing secret inside, every part watched."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from deploy.local import DRAIN_MARGIN_S
from shared.settings import load_settings
from tests.compose import COMPOSE, EXAMPLE, FILE, OURS, SERVICES, TEXT, VARIABLE, filled
from tests.manifests import DEPLOY, ROOT
from tests.servers import need


def seconds(duration: str) -> float:
    return sum(float(n) * {"s": 1, "m": 60}[u] for n, u in re.findall(r"(\d+)([sm])", duration))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder after `./prepare`."""
    need("sh", "od")
    folder = tmp_path_factory.mktemp("compose")
    shutil.copy(COMPOSE / ".env.example", folder)
    prepare(folder)
    return folder


def prepare(folder: Path) -> str:
    command = [COMPOSE / "prepare", folder]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_the_example_has_every_variable_and_no_other() -> None:
    assert {found[1] for found in VARIABLE.finditer(TEXT)} == set(EXAMPLE)


def test_what_compose_insists_on_has_a_value_in_the_example() -> None:
    insisted = {found[1] for found in VARIABLE.finditer(TEXT) if found[2] == ":?"}

    assert insisted
    assert all(EXAMPLE[name] for name in insisted)


def test_prepare_makes_every_secret_once(prepared: Path) -> None:
    files = {prepared / secret["file"] for secret in FILE["secrets"].values()}
    before = {file: file.read_text() for file in files}

    told = prepare(prepared)

    assert {file: file.read_text() for file in files} == before
    assert files == set((prepared / "secrets").iterdir())
    assert len(set(before.values())) == len(files)
    assert (prepared / "secrets").stat().st_mode & 0o077 == 0
    assert (prepared / ".env").stat().st_mode & 0o077 == 0
    assert not any(text.strip() in told for text in before.values())


def test_git_ignores_what_prepare_makes() -> None:
    need("git")
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout")
    names = ["deploy/compose/.env", "deploy/compose/secrets/api_keys"]

    done = subprocess.run(["git", "check-ignore", *names], cwd=ROOT, capture_output=True, text=True)

    assert done.stdout.split() == names


@pytest.mark.parametrize("name", OURS)
def test_the_farm_accepts_the_settings_of_each_service(name: str, prepared: Path) -> None:
    given = SERVICES[name]["environment"]
    env = {key: filled(str(value)) for key, value in given.items()}
    mounted = {key: v.replace("/run/secrets", str(prepared / "secrets")) for key, v in env.items()}

    settings = load_settings(mounted)

    secrets = {Path(value).name for value in env.values() if value.startswith("/run/secrets/")}
    assert secrets <= set(SERVICES[name]["secrets"])
    assert settings.redis_url.get_secret_value().endswith("@redis:6379/0")
    assert settings.s3_bucket
    assert settings.otlp_endpoint is None, "empty: no traces"


def test_one_line_of_the_file_to_edit_gives_every_part_a_collector() -> None:
    for name in OURS:
        assert SERVICES[name]["environment"]["FARM_OTLP_ENDPOINT"] == "${OTLP_ENDPOINT:-}", name


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_pinned_bounded_watched_and_comes_back(name: str) -> None:
    service = SERVICES[name]

    pinned = r":(\$\{VERSION:\?.*\}|v?\d+\.\d+\S*)$|@sha256:[0-9a-f]{64}$"
    assert re.search(pinned, service["image"])
    assert "memory" in service["deploy"]["resources"]["limits"]
    assert service["restart"] == ("on-failure:5" if name == "bucket" else "unless-stopped")
    assert name == "bucket" or service["healthcheck"]["test"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert "max-size" in service["logging"]["options"]
    assert name == "s3" or (service["read_only"] and service["cap_drop"] == ["ALL"])


def test_who_waits_for_a_service_waits_until_it_is_well() -> None:
    for service in SERVICES.values():
        for other, how in service.get("depends_on", {}).items():
            condition = how["condition"]
            assert condition != "service_started"
            assert condition != "service_healthy" or "healthcheck" in SERVICES[other]


def test_ports_are_open_to_this_machine_alone_unless_somebody_says_so() -> None:
    ports = [filled(port) for service in SERVICES.values() for port in service.get("ports", ())]

    assert len(ports) == 3
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_redis_and_the_pictures_are_reached_by_parts_of_the_farm_alone() -> None:
    inside = {name for name, service in SERVICES.items() if "store" in service["networks"]}

    assert FILE["networks"]["store"]["internal"] is True
    assert inside == {"redis", "s3", *OURS}
    assert SERVICES["redis"]["networks"] == SERVICES["s3"]["networks"] == ["store"]


def test_no_secret_stands_in_the_file() -> None:
    for service in SERVICES.values():
        for key, value in (service.get("environment") or {}).items():
            if re.search(r"PASSWORD|SECRET|TOKEN|_KEYS?\b|REDIS_URL", key):
                assert key.endswith("_FILE") or value == "${HF_TOKEN:-}", key
    assert not re.search(r"://[^/\s\"]*:[^/\s\"]*@", TEXT)


@pytest.mark.parametrize("name", OURS)
def test_a_container_is_given_the_time_its_drain_takes(name: str) -> None:
    grace_s = seconds(SERVICES[name].get("stop_grace_period", "10s"))
    drain_s = float(SERVICES[name]["environment"].get("FARM_DRAIN_S", 0))

    assert grace_s >= drain_s + DRAIN_MARGIN_S


def test_each_gpu_has_one_worker_with_a_name_of_its_own() -> None:
    gpus = {name: s for name, s in SERVICES.items() if s.get("profiles") == ["gpu"]}
    reserved = [s["deploy"]["resources"]["reservations"]["devices"][0] for s in gpus.values()]
    names = {s["environment"]["FARM_WORKER_NAME"] for s in gpus.values()}

    assert [device["device_ids"] for device in reserved] == [[str(k)] for k in range(len(gpus))]
    assert len(names) == len(gpus) == 4


def test_prometheus_scrapes_services_that_are_there() -> None:
    config = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text("utf-8"))
    found = [sd for job in config["scrape_configs"] for sd in job.get("dns_sd_configs", ())]
    workers = {name for name in OURS if "worker" in SERVICES[name]["image"]}

    assert {name for sd in found for name in sd["names"]} == {"api", "chores", *workers}
    for sd in found:
        for name in set(sd["names"]) & workers:
            assert SERVICES[name]["environment"]["FARM_WORKER_METRICS_PORT"] == str(sd["port"])


def test_what_is_mounted_from_the_checkout_is_there() -> None:
    for service in SERVICES.values():
        for volume in service.get("volumes", ()):
            source, target = volume.split(":")[:2]
            assert target.startswith("/")
            assert source in FILE["volumes"] or (COMPOSE / source).exists(), source
