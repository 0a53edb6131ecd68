"""Children are real, small Python processes; only the clock is a fake where pauses matter."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from deploy.children import (
    LARGE_LOG_BYTES,
    Backoff,
    Child,
    Program,
    describe_exit,
    rotate,
    stop_all,
)
from tests.waiting import wait_until

LIMIT_S = 10.0
SLEEP = "import time; print('up', flush=True); time.sleep(600)"
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    "print('up', flush=True); time.sleep(600)"
)


class FakeClock:
    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        time.sleep(seconds)
        self.now += seconds


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def child(tmp_path, clock):
    """Make children that end with the test."""
    made = []

    def make(code, *, final_codes=()):
        program = Program(
            name=f"child{len(made)}",
            argv=(sys.executable, "-c", code),
            env=dict(os.environ),
            log=tmp_path / "logs" / f"child{len(made)}.log",
            final_codes=frozenset(final_codes),
        )
        one = Child(program, reports.append, clock)
        one.reports = reports
        made.append(one)
        return one

    reports = []
    yield make
    for one in made:
        one.kill()


def says_up(one):
    return one.program.log.exists() and "up" in one.program.log.read_text()


def die(one):
    """Let the process end, and the child notice it."""
    wait_until(lambda: not one.alive)
    one.tick()


def never():
    return False


def test_a_child_that_dies_starts_again_after_its_pause(child, clock):
    one = child(SLEEP)
    one.start()
    first = one.pid

    os.kill(first, signal.SIGKILL)
    die(one)
    one.tick()
    assert one.pid is None  # it pauses
    clock.now += 0.2
    one.tick()

    assert one.alive
    assert one.pid != first
    assert "SIGKILL (the kernel's out-of-memory killer?); starts again in 0.2 s" in one.reports[0]


def test_a_child_that_fails_is_quoted(child):
    one = child("raise SystemExit('the disk is full')")
    one.start()

    die(one)

    assert one.reports[0].startswith("child0 exited with code 1: the disk is full; starts again")


def test_pauses_double_with_each_early_death_and_a_long_life_forgives():
    backoff = Backoff()

    early = [backoff.after(lived_s=0.1) for _ in range(8)]

    assert early == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0]
    assert backoff.after(lived_s=30.0) == 0.2
    assert backoff.after(lived_s=0.1) == 0.4


def test_a_final_exit_code_is_not_tried_again_and_its_last_words_are_kept(child, clock):
    one = child(
        "import sys; print('FARM_PROT is unknown\\n', file=sys.stderr); sys.exit(2)",
        final_codes=[2],
    )
    one.start()

    die(one)
    clock.now += 100
    one.tick()

    assert one.gave_up
    assert not one.alive
    assert one.last_words() == "FARM_PROT is unknown"
    assert one.reports == ["child0 exited with code 2"]


def test_a_program_that_cannot_start_is_tried_again(tmp_path, clock):
    reports = []
    program = Program("ghost", (sys.executable, "-V"), {}, log=tmp_path)  # a folder is no log
    one = Child(program, reports.append, clock)

    one.start()
    one.tick()
    clock.now += 0.2
    one.tick()

    assert [report.partition(";")[2] for report in reports] == [
        f" starts again in {pause} s (log: {program.log})" for pause in ("0.2", "0.4")
    ]


def test_a_child_that_ends_on_sigterm_is_not_killed(child):
    one = child(
        "import signal, sys, time\n"
        "def leave(*_):\n    print('bye', flush=True)\n    sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, leave)\nprint('up', flush=True)\ntime.sleep(600)"
    )
    one.start()
    wait_until(lambda: says_up(one))

    stop_all([one], LIMIT_S, never)

    assert "bye" in one.program.log.read_text()


def test_a_child_that_ignores_sigterm_is_killed_after_the_grace(child, clock):
    one = child(STUBBORN)
    one.start()
    wait_until(lambda: says_up(one))
    pid = one.pid

    stop_all([one], 0.3, never, clock)

    assert not psutil.pid_exists(pid)
    assert clock.now >= 1000.3


def test_hurry_does_not_wait_for_the_grace(child):
    one = child(STUBBORN)
    one.start()
    wait_until(lambda: says_up(one))
    began = time.monotonic()

    stop_all([one], 600.0, hurry=lambda: True)

    assert time.monotonic() - began < LIMIT_S
    assert not one.alive


def test_a_stopped_child_stays_stopped(child, clock):
    one = child(SLEEP)
    one.start()

    stop_all([one], LIMIT_S, never)
    clock.now += 100
    one.tick()

    assert not one.alive


def test_what_a_child_leaves_behind_is_ended_too(child):
    one = child(
        "import subprocess, sys\n"
        f"p = subprocess.Popen([sys.executable, '-c', {STUBBORN!r}])\n"
        "print('grandchild', p.pid, flush=True)\np.wait()"
    )
    one.start()
    wait_until(lambda: says_up(one) and "grandchild" in one.program.log.read_text())
    words = one.program.log.read_text().split()
    grandchild = psutil.Process(int(words[words.index("grandchild") + 1]))

    stop_all([one], LIMIT_S, never)

    wait_until(lambda: gone(grandchild))


def gone(process):
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ties a child to its parent")
def test_no_child_outlives_a_supervisor_that_was_killed(tmp_path):
    supervisor = subprocess.Popen(
        [sys.executable, "-c", SUPERVISOR, str(tmp_path)],
        cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    child = psutil.Process(int(supervisor.stdout.readline()))
    assert child.is_running()

    supervisor.kill()
    supervisor.communicate()

    wait_until(lambda: gone(child))


SUPERVISOR = f"""
import os, sys, time
from pathlib import Path
from deploy.children import Child, Program
log = Path(sys.argv[1]) / "child.log"
child = Child(Program("child", (sys.executable, "-c", {STUBBORN!r}), dict(os.environ), log), print)
child.start()
while not log.exists() or "up" not in log.read_text():
    time.sleep(0.01)
print(child.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (1, "exited with code 1"),
        (-15, "was ended by SIGTERM"),
        (-9, "was ended by SIGKILL (the kernel's out-of-memory killer?)"),
        (137, "was ended by SIGKILL (the kernel's out-of-memory killer?)"),
        (-64, "was ended by SIGRTMAX"),
    ],
)
def test_an_exit_code_is_put_into_words(code, words):
    assert describe_exit(code) == words


def test_an_exit_is_told_with_what_the_program_means_by_it():
    words = {3: "was deaf"}

    assert describe_exit(3, words) == "exited with code 3: it was deaf"
    assert describe_exit(1, words) == "exited with code 1"


@pytest.mark.parametrize("code", [-9, 137])
def test_a_kill_is_told_with_its_cause_where_that_is_known(code):
    told = describe_exit(code, {}, lambda: "the container's memory limit killed it")

    assert told == "was ended by SIGKILL (the container's memory limit killed it)"


def test_a_large_log_makes_room_for_a_new_one(tmp_path):
    log = tmp_path / "api.log"
    log.write_bytes(b"x" * (LARGE_LOG_BYTES + 1))
    log.with_name("api.log.1").write_text("older")

    rotate(log)

    assert not log.exists()
    assert log.with_name("api.log.1").stat().st_size == LARGE_LOG_BYTES + 1


def test_a_small_log_goes_on(tmp_path):
    log = tmp_path / "api.log"
    log.write_text("yesterday\n")

    rotate(log)

    assert log.read_text() == "yesterday\n"
