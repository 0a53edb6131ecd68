"""The result store goes wrong in mid upload, or is full: the picture is kept later, once."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.conftest import at_rest
from tests.chaos.farm import ChaosFarm
from tests.chaos.http_wire import Trouble, Wrong
from tests.servers.rgw import Rgw
from tests.waiting import wait_until

pytestmark = (
    pytest.mark.slow
)  # each named fault: `make slow`; all at once, for a minute: `make test`

seeds = itertools.count(4000, 10)  # room for the images of one job


@pytest.fixture(scope="module")
def cloud_farm(ground: Path, rgw: Rgw) -> Iterator[ChaosFarm]:
    """One worker whose pictures go to a real S3 server."""
    with ChaosFarm(ground / "cloud", workers=1, apis=1, chores=1, rgw=rgw) as farm:
        yield farm


@pytest.mark.s3
@pytest.mark.parametrize("wrong", ["cut", "deaf", "error", "hang", "reset"])
def test_an_upload_that_goes_wrong_is_made_again_and_published_once(
    cloud_farm: ChaosFarm, wrong: Wrong
) -> None:
    assert cloud_farm.storage is not None
    # boto3 tries three times itself: the first four uploads go wrong, so we must try again too.
    hit = cloud_farm.storage.hit[f"s3 {wrong}"]
    cloud_farm.storage.trouble(*[Trouble(wrong, 0.5)] * 4)

    job = cloud_farm.submit(seed=next(seeds))

    done = cloud_farm.finished(job["id"])
    assert (done["status"], done["images"][0]["attempt"]) == ("succeeded", 1)
    assert cloud_farm.storage.hit[f"s3 {wrong}"] == hit + 4
    assert at_rest(cloud_farm) == []


@pytest.mark.s3
def test_a_worker_killed_in_mid_upload_leaves_one_published_picture(cloud_farm: ChaosFarm) -> None:
    assert cloud_farm.storage is not None
    cloud_farm.storage.trouble(Trouble("hang", 30.0))
    job = cloud_farm.submit(seed=next(seeds))
    wait_until(lambda: cloud_farm.job(job["id"])["images"][0]["status"] == "storing", 30.0)

    cloud_farm.part("worker-0").kill()

    done = cloud_farm.finished(job["id"])
    assert (done["status"], done["images"][0]["attempt"]) == ("succeeded", 2)
    assert at_rest(cloud_farm) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of one megabyte; only root may mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    command = [str(mount), "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if os.geteuid() != 0 or mount is None or subprocess.run(command, check=False).returncode != 0:
        pytest.skip("a disk of its own needs root and the right to mount")
    yield disk
    subprocess.run([str(shutil.which("umount")), str(disk)], check=True)


def test_a_full_disk_delays_a_picture_until_there_is_room(ground: Path, small_disk: Path) -> None:
    with ChaosFarm(
        ground / "full", workers=1, apis=1, chores=1, FARM_RESULTS_DIR=str(small_disk / "results")
    ) as farm:
        fill(small_disk / "filler")
        job = farm.submit(seed=next(seeds))
        wait_until(lambda: any(line["action"] == "store_again" for line in farm.told("worker")))
        assert farm.job(job["id"])["images"][0]["status"] == "storing"

        (small_disk / "filler").unlink()

        done = farm.finished(job["id"])
        assert (done["status"], done["images"][0]["attempt"]) == ("succeeded", 1)
        assert at_rest(farm) == []


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"\0" * 4096)
        except OSError:
            return
