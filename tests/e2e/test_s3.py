"""The whole farm with its pictures in a bucket of a real S3 server."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.farm import RunningFarm
from tests.servers.grounds import Bucket
from tests.servers.rgw import Rgw


@pytest.mark.s3
def test_pictures_live_in_a_bucket_and_come_back_from_it(
    rgw: Rgw, models: Path, tmp_path: Path
) -> None:
    bucket = Bucket(rgw, rgw.http, "farm-e2e")
    settings = {
        "FARM_S3_BUCKET": bucket.name,
        "FARM_S3_ENDPOINT": rgw.http,
        "FARM_S3_ACCESS_KEY": rgw.access_key,
        "FARM_S3_SECRET_KEY": rgw.secret_key,
    }
    with RunningFarm(tmp_path / "farm", models, **settings) as farm:
        job = farm.wait(farm.submit(seed=1)["id"])
        fingerprint = job["images"][0]["fingerprint"]

        assert job["status"] == "succeeded"
        assert farm.picture(job).startswith(b"\x89PNG")
        names = bucket.names()
        assert len(names) == 2
        assert all(name.startswith(f"renders/{fingerprint}/") for name in names)
        assert farm.get("/readyz").json()["checks"] == {"redis": True, "storage": True}

        bucket.remove(next(name for name in names if name.endswith(".png")))
        assert farm.get(f"/jobs/{job['id']}/result").status_code == 410
        again = farm.wait(farm.submit(seed=1)["id"])
        assert (again["status"], again["cached"]) == ("succeeded", False)
        assert rgw.secret_key not in "".join(p.read_text() for p in farm.folder.rglob("*.log"))
