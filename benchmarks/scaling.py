"""How the scaling rules of deploy/kubernetes answer a burst, and a steady load, in a simulation.

    python -m benchmarks.scaling [--jobs 500] [--seconds-per-image 12] [--cold-start-s 180]

Reads threshold, windows and limits from the manifests. Prints a table for each rule; the bars are
workers that are wanted (`#` have loaded, `.` still load).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from random import Random

import yaml

from deploy.rehearsal import Rehearsal, rehearse
from deploy.scaling import Rule, Trigger
from shared.queueing import percentile

MANIFESTS = Path(__file__).parents[1] / "deploy/kubernetes/overlays/production"
HOUR_S = 3600


def rules() -> dict[str, Rule]:
    """By the name of the ScaledObject."""
    found = [yaml.safe_load(file.read_text("utf-8")) for file in MANIFESTS.glob("scale-*.yaml")]
    return {each["metadata"]["name"]: Rule.of(each) for each in sorted(found, key=str)}


def burst(jobs: int, image_s: float) -> list[tuple[float, float]]:
    """All at once, a minute after the start."""
    return [(60.0, image_s)] * jobs


def steady(
    busy_workers: float, image_s: float, hours: int, seed: int = 1
) -> list[tuple[float, float]]:
    """Orders at random that keep so many workers busy on average."""
    random, now, orders = Random(seed), 0.0, []
    while (now := now + random.expovariate(busy_workers / image_s)) < hours * HOUR_S:
        orders.append((now, image_s))
    return orders


def plot(run: Rehearsal, every_s: int) -> None:
    print("  minute  backlog s  workers")
    for moment in run.moments[::every_s]:
        if moment.at_s > run.empty_at_s() + every_s:
            return
        bar = "#" * moment.ready + "." * (moment.workers - moment.ready)
        print(f"  {moment.at_s / 60:6.1f}  {moment.backlog_s:9.0f}  {moment.workers:2} {bar}")


def told(run: Rehearsal) -> str:
    p50, p95 = (percentile(run.waits_s, share) for share in (0.5, 0.95))
    changes = run.turns
    return (
        f"{len(run.waits_s)} images, wait p50 {p50:.0f} s, p95 {p95:.0f} s; at most "
        f"{max(m.workers for m in run.moments)} workers, {changes} change{'s' * (changes != 1)} of direction; "
        f"{run.rendered_s / run.paid_s:.0%} of what was paid rendered"
    )


def _one_for(trigger: Trigger) -> str:
    if trigger.sees == "backlog":
        return f"a worker for each {trigger.threshold:.0f} s of backlog"
    return f"for each {trigger.threshold:g} that was busy of late ({trigger.window_s / 60:.0f} minutes)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=500)
    parser.add_argument("--seconds-per-image", type=float, default=12.0)
    parser.add_argument("--cold-start-s", type=float, default=180.0)
    options = parser.parse_args()
    image_s, cold_s = options.seconds_per_image, options.cold_start_s
    for name, rule in rules().items():
        print(f"{name}: {' or '.join(map(_one_for, rule.triggers))}; {rule.most} at most")
        run = rehearse(rule, burst(options.jobs, image_s), cold_start_s=cold_s, until_s=2 * HOUR_S)
        print(f" a burst: {told(run)}; none again after {run.empty_at_s() / 60:.0f} minutes")
        plot(run, 120)
        for busy in (0.5, 1.5, 2.5):
            orders = steady(busy, image_s, hours=8)
            run = rehearse(rule, orders, cold_start_s=cold_s, until_s=8 * HOUR_S)
            print(f" eight hours that keep {busy} workers busy: {told(run)}")


if __name__ == "__main__":
    main()
