"""What is done to a folder of weights: a manifest, the long look, reading ahead."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading

import pytest
import torch
from safetensors.torch import load_file, save_file

from shared.models import ModelEntry
from shared.settings import Settings
from worker.loading import manifest, prefetch
from worker.loading.deep import look_deep
from worker.loading.parts import Wanted, files_of
from worker.loading.prefetch import cold_part, prefetch_cold
from worker.loading.warming import warm

VAE = "vae/diffusion_pytorch_model.safetensors"


@pytest.fixture
def model(tiny_folder, tmp_path):
    return shutil.copytree(tiny_folder, tmp_path / "model")


def turn_a_bit(file):
    """As a disk may: the content is another, the time stays."""
    at = file.stat()
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(data)
    os.utime(file, ns=(at.st_atime_ns, at.st_mtime_ns))


def written(model):
    manifest.write(model, files_of(model, Wanted()))


def test_a_manifest_lists_what_is_read_and_sha256sum_takes_it(model):
    written(model)

    lines = (model / manifest.NAME).read_text().splitlines()
    done = subprocess.run(
        ["sha256sum", "--check", "--quiet", manifest.NAME], cwd=model, capture_output=True
    )
    assert len(lines) == len(files_of(model, Wanted()))
    assert done.returncode == 0, done.stdout


def test_a_bit_that_turned_over_is_found_by_the_manifest_alone(model):
    written(model)
    turn_a_bit(model / VAE)

    faults, compared = look_deep(model, Wanted())

    assert compared
    assert [(fault.part, fault.code) for fault in faults] == [("vae", "other_content")]


def test_writing_the_manifest_again_does_not_make_rot_right(model):
    written(model)
    turn_a_bit(model / VAE)

    written(model)

    assert look_deep(model, Wanted())[0]


def test_a_file_that_came_later_is_listed_anew(model):
    written(model)
    before = (model / manifest.NAME).stat().st_mtime_ns
    turn_a_bit(model / VAE)
    os.utime(model / VAE, ns=(before + 1, before + 1))

    written(model)

    assert look_deep(model, Wanted()) == ([], True)


def test_without_a_manifest_only_the_numbers_are_looked_at(model):
    turn_a_bit(model / VAE)

    assert look_deep(model, Wanted()) == ([], False)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e5m2])
def test_a_number_that_is_none_is_found(model, value, dtype):
    weights = {key: tensor.to(dtype) for key, tensor in load_file(model / VAE).items()}
    first = next(iter(weights))
    weights[first] = torch.full(weights[first].shape, value).to(dtype)
    save_file(weights, model / VAE)

    ((fault,), _) = look_deep(model, Wanted())

    assert (fault.part, fault.code) == ("vae", "not_finite")
    assert first in fault.message


def test_the_long_look_tells_how_far_it_is(model):
    written(model)
    told = []

    look_deep(model, Wanted(), lambda *progress: told.append(progress))

    done_bytes, total_bytes = told[-1]
    assert (
        done_bytes == total_bytes > 4_000_000
    )  # the weights twice: for their sum, and their numbers


@pytest.fixture
def large(tmp_path):
    """A folder with a file that is not in memory: written, synced, and dropped from the cache."""
    (tmp_path / "model_index.json").write_text("{}")
    file = tmp_path / "weights"
    file.write_bytes(os.urandom(2**20) * 48)
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if cold_part(file) < 0.5:
        pytest.skip("this file system keeps every page in memory, or cannot be asked")
    return file


def test_what_is_cold_is_read_whole_and_then_warm(large):
    told = []

    read = prefetch.prefetch([large], lambda *progress: told.append(progress))

    assert read.bytes == 48 * 2**20
    assert told[-1] == (48 * 2**20, 48 * 2**20)
    assert cold_part(large) == 0


def test_what_is_warm_is_not_read_again(large):
    first, second = (prefetch_cold(large.parent, [large]) for _ in range(2))

    assert first is not None
    assert first.bytes == 48 * 2**20
    assert second is None


def test_of_two_workers_one_reads_and_the_other_waits(large, monkeypatch):
    begun, go_on, second = threading.Event(), threading.Event(), threading.Event()
    whole = prefetch.prefetch

    def slow(files):
        (second if begun.is_set() else begun).set()
        assert go_on.wait(20)
        return whole(files)

    monkeypatch.setattr(prefetch, "prefetch", slow)
    reads = []
    workers = [
        threading.Thread(target=lambda: reads.append(prefetch_cold(large.parent, [large])))
        for _ in range(2)
    ]
    workers[0].start()
    assert begun.wait(20)
    workers[1].start()
    at_once = second.wait(0.3)
    go_on.set()
    for worker in workers:
        worker.join(20)

    assert not at_once
    assert sorted(read is None for read in reads) == [False, True]


def test_what_memory_cannot_hold_is_not_read(large, monkeypatch):
    monkeypatch.setattr(prefetch, "_memory_bytes", lambda: 50 * 2**20)

    assert prefetch_cold(large.parent, [large]) is None


@pytest.mark.parametrize(("wanted", "states"), [(True, ["running", "done"]), (False, ["skipped"])])
def test_prefetching_is_a_loading_step_with_seconds_of_its_own(model, wanted, states):
    told = []
    entry = ModelEntry(id="m", source=f"dir:{model}")

    warm(model, entry, Settings(prefetch=wanted), lambda *step: told.append(step))

    assert told == [("prefetch", state) for state in states]


def test_a_system_that_cannot_be_asked_is_taken_as_warm(large, monkeypatch):
    monkeypatch.delattr(os, "RWF_NOWAIT")

    assert prefetch_cold(large.parent, [large]) is None
