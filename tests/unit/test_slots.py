import pytest

from deploy.slots import choose_slots, find_gpus
from shared.errors import SettingsError


def names(slots):
    return [slot.name.rpartition("-")[2] for slot in slots]


def test_without_a_gpu_one_worker_sits_on_the_cpu():
    (slot,) = choose_slots(None, None, "auto", found=[])

    assert names([slot]) == ["cpu0"]
    assert slot.env == {"FARM_DEVICE": "cpu"}


def test_each_gpu_gets_one_worker_that_sees_no_other():
    slots = choose_slots(None, None, "auto", found=["0", "1"])

    assert names(slots) == ["gpu0", "gpu1"]
    assert [slot.env["CUDA_VISIBLE_DEVICES"] for slot in slots] == ["0", "1"]
    assert {slot.env["FARM_DEVICE"] for slot in slots} == {"cuda:0"}


@pytest.mark.parametrize(
    ("gpus", "workers", "device", "expected"),
    [
        ("1", None, "auto", ["gpu1"]),
        ("1, 0,1", None, "auto", ["gpu1", "gpu0"]),
        ("none", 3, "auto", ["cpu0", "cpu1", "cpu2"]),
        ("all", 1, "auto", ["gpu0"]),
        (None, None, "cpu", ["cpu0"]),
        (None, None, "cuda", ["gpu0"]),
        (None, None, "cuda:1", ["gpu1"]),
        ("all", None, "cpu", ["gpu0", "gpu1"]),
    ],
)
def test_options_and_device_choose_the_slots(gpus, workers, device, expected):
    assert names(choose_slots(gpus, workers, device, found=["0", "1"])) == expected


def test_a_gpu_that_is_not_there_is_refused_and_those_there_are_named():
    with pytest.raises(SettingsError, match=r"no GPU 3 here; found: 0, 1"):
        choose_slots("0,3", None, "auto", found=["0", "1"])


def test_two_workers_do_not_share_a_gpu():
    with pytest.raises(SettingsError, match="2 workers for 1 GPUs"):
        choose_slots("all", 2, "auto", found=["0"])


@pytest.mark.parametrize(
    ("visible", "found"), [("", []), ("-1", []), ("2,3", ["2", "3"]), ("GPU-5e1", ["GPU-5e1"])]
)
def test_the_environment_may_hide_gpus(visible, found):
    assert find_gpus({"CUDA_VISIBLE_DEVICES": visible}) == found
