"""systemd: what `systemd-analyze` cannot know of the farm's needs."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from cli.main import COMMANDS, main
from deploy.local import DRAIN_MARGIN_S, REFUSED
from shared.settings import load_settings
from tests.manifests import DEPLOY

UNITS = {file.name: file for file in (DEPLOY / "systemd").glob("*.service")}
EXAMPLE = (DEPLOY / "systemd" / "farm.env.example").read_text("utf-8")
WORKER = "renderfarm-worker@.service"


def lines(name: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for key, value in re.findall(r"^(\w+)=(.*)$", UNITS[name].read_text("utf-8"), re.M):
        found.setdefault(key, []).append(value)
    return found


def environment(name: str) -> dict[str, str]:
    """What the unit itself sets; the file of settings comes over it."""
    own = dict(pair.split("=", 1) for pair in lines(name).get("Environment", ()))
    return own | dict(re.findall(r"^(\w+)=(.*)$", EXAMPLE, re.M))


@pytest.mark.parametrize("name", UNITS)
def test_the_farm_accepts_the_settings_of_each_unit(name: str) -> None:
    settings = load_settings(environment(name))

    assert settings.durability == "always"
    assert settings.data_dir == Path("/var/lib/renderfarm")


def test_every_setting_of_the_example_is_one_also_those_commented_out() -> None:
    offered = dict(re.findall(r"^#?(FARM_\w+)=(.*)$", EXAMPLE, re.M))

    assert load_settings(offered).s3_bucket == "renderfarm"


@pytest.mark.parametrize("name", UNITS)
def test_a_unit_runs_a_part_and_stays_down_only_when_its_settings_are_refused(name: str) -> None:
    unit = lines(name)
    part = unit["ExecStart"][0].split()[1]

    assert part in COMMANDS
    assert main.get_command(click.Context(main), part) is not None
    assert unit["Restart"] == ["always"]
    assert {int(code) for code in unit["RestartPreventExitStatus"]} == REFUSED
    assert unit["StartLimitIntervalSec"] == ["0"]


def test_a_unit_is_given_the_time_its_drain_takes() -> None:
    worker = load_settings(environment(WORKER))
    api = load_settings(environment("renderfarm-api.service"))

    stops = {name: float(lines(name)["TimeoutStopSec"][0]) for name in UNITS}

    assert stops[WORKER] >= worker.drain_s + DRAIN_MARGIN_S
    assert stops["renderfarm-api.service"] >= api.api_drain_s + 30


def test_a_workers_keeper_outlives_it() -> None:
    worker = lines(WORKER)

    assert worker["KillMode"] == ["mixed"]  # SIGTERM is for the worker alone
    assert worker["ExitType"] == ["cgroup"]  # its end is when the keeper ended
    assert worker["OOMPolicy"] == ["continue"]


def test_each_instance_sees_one_gpu_under_a_name_that_stays() -> None:
    env = environment(WORKER)

    assert (env["CUDA_VISIBLE_DEVICES"], env["FARM_DEVICE"]) == ("%i", "cuda:0")
    assert env["FARM_WORKER_NAME"] == "%H-gpu%i"
