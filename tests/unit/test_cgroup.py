"""Memory cgroups as files: both versions, with and without a namespace."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.cgroup import RECENT_S, MemoryGroup, OomWatch, read_memory

GIB = 2**30
V2_EVENTS = "low 0\nhigh 0\nmax 7\noom 3\noom_kill {kills}\noom_group_kill 0\n"
V1_CONTROL = "oom_kill_disable 0\nunder_oom 0\noom_kill {kills}\n"
V1_STAT = "cache 0\nrss 12\nhierarchical_memory_limit {limit}\ntotal_cache 0\n"


def write(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def v2(root: Path, group: str, kills: int = 0, limit: str = "max") -> None:
    write(root, f"sys/fs/cgroup/{group}/memory.events", V2_EVENTS.format(kills=kills))
    write(root, f"sys/fs/cgroup/{group}/memory.max", f"{limit}\n")


def v1(root: Path, group: str, kills: int = 0, limit: int = GIB) -> None:
    folder = f"sys/fs/cgroup/memory/{group}"
    write(root, f"{folder}/memory.oom_control", V1_CONTROL.format(kills=kills))
    write(root, f"{folder}/memory.stat", V1_STAT.format(limit=limit))


def test_version_2_tells_kills_and_the_nearest_limit_that_binds(tmp_path: Path) -> None:
    write(tmp_path, "proc/self/cgroup", "0::/pods/worker\n")
    v2(tmp_path, "pods", limit=str(2 * GIB))
    v2(tmp_path, "pods/worker", kills=4, limit="max")

    assert read_memory(tmp_path) == MemoryGroup(oom_kills=4, limit_bytes=2 * GIB)


def test_version_1_tells_the_same(tmp_path: Path) -> None:
    write(tmp_path, "proc/self/cgroup", "5:cpu,memory:/docker/abc\n1:name=systemd:/x\n0::/\n")
    v1(tmp_path, "docker/abc", kills=1, limit=GIB)

    assert read_memory(tmp_path) == MemoryGroup(oom_kills=1, limit_bytes=GIB)


def test_a_container_that_sees_its_group_at_the_mount_finds_it_there(tmp_path: Path) -> None:
    write(tmp_path, "proc/self/cgroup", "4:memory:/docker/abc\n")
    v1(tmp_path, "", kills=2)

    assert read_memory(tmp_path) == MemoryGroup(oom_kills=2, limit_bytes=GIB)


def test_a_number_too_large_for_any_machine_is_no_limit(tmp_path: Path) -> None:
    write(tmp_path, "proc/self/cgroup", "4:memory:/\n")
    v1(tmp_path, "", limit=9223372036854771712)

    assert read_memory(tmp_path) == MemoryGroup(oom_kills=0, limit_bytes=None)


@pytest.mark.parametrize(
    "listed", ["", "nonsense\n", "0::/\n", "4:memory:/gone\n", "1:name=systemd:/\n"]
)
def test_where_there_is_no_memory_group_nothing_is_said(tmp_path: Path, listed: str) -> None:
    write(tmp_path, "proc/self/cgroup", listed)

    assert read_memory(tmp_path) is None
    assert OomWatch(read=lambda: read_memory(tmp_path)).words() is None


def test_a_machine_without_proc_has_no_group(tmp_path: Path) -> None:
    assert read_memory(tmp_path) is None


class Kernel:
    """A group whose kills the test counts, and a clock."""

    def __init__(self, limit_bytes: int | None = 3 * GIB // 2) -> None:
        self.kills, self.now, self.limit_bytes = 5, 100.0, limit_bytes

    def watch(self) -> OomWatch:
        def read() -> MemoryGroup:
            return MemoryGroup(self.kills, self.limit_bytes)

        return OomWatch(read=read, clock=lambda: self.now)


def test_a_kill_is_told_with_the_limit_and_the_way_out() -> None:
    kernel = Kernel()
    watch = kernel.watch()
    assert watch.words() is None

    kernel.kills += 1

    assert watch.words() == (
        "the container's memory limit (1.5 GiB) killed the worker; "
        "raise the limit or use a smaller placement"
    )


def test_without_a_limit_the_machine_itself_was_full() -> None:
    kernel = Kernel(limit_bytes=None)
    watch = kernel.watch()

    kernel.kills += 1

    assert watch.words() == "the machine ran out of memory and the kernel killed the worker"


def test_a_kill_seen_by_a_look_just_before_is_still_told() -> None:
    kernel = Kernel()
    watch = kernel.watch()

    kernel.kills += 1
    kernel.now += RECENT_S
    watch.look()

    assert watch.words() is not None


def test_a_kill_of_long_ago_was_another_process() -> None:
    kernel = Kernel()
    watch = kernel.watch()

    kernel.kills += 1
    for _ in range(2):
        kernel.now += RECENT_S
        watch.look()

    assert watch.words() is None
