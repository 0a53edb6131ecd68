"""What only a folder can do: be full, be a file, keep what a dead process left."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from results_samples import FINGERPRINT, PNG, sample

from shared.errors import ResultsUnavailable
from shared.results import open_results
from shared.results.local import ABANDONED_S, LocalResults
from shared.settings import load_settings

ON_A_SMALL_DISK = """
import os, subprocess, sys
from pathlib import Path
from results_samples import FINGERPRINT, PNG, sample
from shared.errors import ResultsUnavailable
from shared.results.local import LocalResults

folder = Path(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder], check=True)
store, big = LocalResults(folder), bytes(1_000_000)
try:
    store.put(sample(png=big), big, {})
except ResultsUnavailable as error:
    print(error)
assert store.find(FINGERPRINT) is None
store.put(sample(), PNG, {})
assert store.find(FINGERPRINT) == sample()
assert os.listdir(folder / "tmp") == []
"""


def test_a_full_disk_is_said_and_leaves_nothing_half(tmp_path: Path) -> None:
    unshared = ["unshare", "--map-root-user", "--mount"]
    if subprocess.run([*unshared, "true"], capture_output=True).returncode:
        pytest.skip("this system lets nobody mount a small disk")

    done = subprocess.run(
        [*unshared, sys.executable, "-c", ON_A_SMALL_DISK, str(tmp_path)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": f".:{Path(__file__).parent}"},
    )

    assert done.returncode == 0, done.stderr
    assert f"{tmp_path}: No space left on device: free some space" in done.stdout


def test_a_file_in_the_folders_place_is_said(tmp_path: Path) -> None:
    (tmp_path / "results").write_text("")
    store = LocalResults(tmp_path / "results")

    for call in (
        store.check,
        lambda: store.put(sample(), PNG, {}),
        lambda: store.find(FINGERPRINT),
        lambda: list(store.walk()),
    ):
        with pytest.raises(ResultsUnavailable, match="results: Not a directory"):
            call()


def test_the_check_sweeps_what_dead_processes_left(tmp_path: Path) -> None:
    store = LocalResults(tmp_path)
    store.check()
    old, young = tmp_path / "tmp" / "old.png.0", tmp_path / "tmp" / "young.png.0"
    for path in (old, young):
        path.write_bytes(PNG)
    long_ago = time.time() - ABANDONED_S - 1
    os.utime(old, (long_ago, long_ago))

    store.check()

    assert young.exists()
    assert not old.exists()


def test_the_last_result_takes_its_folder_with_it(tmp_path: Path) -> None:
    store = LocalResults(tmp_path)
    store.put(sample(), PNG, {})

    store.delete(sample())

    assert not any((tmp_path / "renders").iterdir())


def test_a_reader_keeps_what_is_deleted_under_it(tmp_path: Path) -> None:
    store, png = LocalResults(tmp_path), os.urandom(1024 * 1024)
    store.put(sample(png=png), png, {})
    pieces = store.read(sample(png=png))
    first = next(pieces)

    store.delete(sample(png=png))

    assert first + b"".join(pieces) == png


def test_opening_a_store_touches_nothing(tmp_path: Path) -> None:
    store = open_results(load_settings({"FARM_DATA_DIR": str(tmp_path / "data")}))

    assert isinstance(store, LocalResults)
    assert not any(tmp_path.iterdir())
