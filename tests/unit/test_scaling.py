"""The scaling rules of deploy/kubernetes, on simulated workers: what they answer, and that they do not flap."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.scaling import HOUR_S, burst, rules, steady
from deploy.rehearsal import Rehearsal, rehearse, turns
from deploy.scaling import Autoscaler, Pace, Rule, Trigger

IMAGE_S, COLD_START_S = 12.0, 180.0
RULES = rules()
PLAIN = Rule(
    triggers=(Trigger("backlog", threshold=100.0, activation=0.0),),
    least=0, most=10, polling_s=15, cooldown_s=300,
    up=Pace(window_s=0, pods=100, period_s=60), down=Pace(window_s=0, pods=100, period_s=60),
)  # fmt: skip


def tried(rule: Rule, orders: list[tuple[float, float]], hours: int = 2) -> Rehearsal:
    return rehearse(rule, orders, cold_start_s=COLD_START_S, until_s=hours * HOUR_S)


# ------------------------------------------------------------------------- the arithmetic


@pytest.mark.parametrize(
    ("backlog_s", "workers", "then"),
    [(0, 3, 1), (1, 3, 1), (100, 3, 1), (101, 3, 2), (950, 3, 10), (5000, 3, 10),
     (219, 2, 2), (221, 2, 3), (181, 2, 2), (90, 1, 1)],
)  # fmt: skip
def test_workers_are_backlog_by_threshold_rounded_up(
    backlog_s: float, workers: int, then: int
) -> None:
    """Within limits, and unless what is there is right to a tenth."""
    assert Autoscaler(PLAIN).sync(0, [backlog_s], workers) == then


def test_the_trigger_that_wants_most_counts() -> None:
    rule = replace(PLAIN, triggers=(*PLAIN.triggers, Trigger("busy", 0.5, 0.0, window_s=600)))

    assert Autoscaler(rule).sync(0, [150, 2.4], 2) == 5
    assert Autoscaler(rule).sync(0, [750, 2.4], 2) == 8


def test_only_keda_wakes_the_first_worker_and_takes_the_last() -> None:
    scaler = Autoscaler(PLAIN)

    assert scaler.sync(0, [500], 0) == 0
    assert scaler.poll(0, [500], 0) == 1
    assert scaler.poll(299, [0], 4) == 4
    assert scaler.poll(301, [0], 4) == 0


def test_workers_come_when_the_whole_window_agrees_and_go_when_none_of_it_objects() -> None:
    scaler = Autoscaler(replace(PLAIN, up=Pace(30, 100, 60), down=Pace(60, 100, 60)))
    workers, seen = 2, []
    for now, backlog_s in enumerate([200, 800, 800, 800, 800, 100, 100, 100, 100, 100]):
        workers = scaler.sync(15 * now, [backlog_s], workers)
        seen.append(workers)

    assert seen == [2, 2, 8, 8, 8, 8, 8, 8, 1, 1]


def test_no_more_come_or_go_in_a_period_than_the_policy_says() -> None:
    scaler = Autoscaler(replace(PLAIN, up=Pace(0, 4, 60), down=Pace(0, 1, 120)))
    workers, seen = 1, []
    for now, backlog_s in enumerate([900] * 14 + [100] * 12):
        workers = scaler.sync(15 * now, [backlog_s], workers)
        seen.append(workers)

    assert seen[:6] == [5, 5, 5, 5, 9, 9]
    assert seen[14:] == [8] * 8 + [7] * 4


def test_a_rule_made_faster_does_the_same_in_a_part_of_the_time() -> None:
    rule, quick = RULES["worker-sd35-medium"], RULES["worker-sd35-medium"].faster(30)
    slow_one, quick_one = Autoscaler(rule), Autoscaler(quick)
    slow, fast = [1], [1]
    for turn, backlog_s in enumerate([100, 900, *[2000] * 8, 50, *[0] * 60]):
        slow.append(slow_one.sync(turn * rule.sync_s, [backlog_s, 0], slow[-1]))
        fast.append(quick_one.sync(turn * quick.sync_s, [backlog_s / 30, 0], fast[-1]))

    assert slow == fast
    assert max(slow) == 8
    assert slow[-1] == 2


@pytest.mark.parametrize("change", ["query", "metricType", "policy"])
def test_a_manifest_that_says_something_else_is_refused(change: str) -> None:
    pods = {
        "stabilizationWindowSeconds": 0,
        "policies": [{"type": "Pods", "value": 1, "periodSeconds": 60}],
    }
    trigger = {
        "type": "prometheus",
        "metricType": "AverageValue",
        "metadata": {"threshold": "1", "query": 'max(renderfarm_backlog_gpu_seconds{model="m"})'},
    }
    behavior = {"scaleUp": pods, "scaleDown": pods}
    manifest = {"spec": {
        "maxReplicaCount": 2, "pollingInterval": 15, "cooldownPeriod": 60, "triggers": [trigger],
        "advanced": {"horizontalPodAutoscalerConfig": {"behavior": behavior}},
    }}  # fmt: skip
    assert Rule.of(manifest).most == 2

    if change == "query":
        trigger["metadata"] = {"threshold": "1", "query": "sum(renderfarm_renders_pending)"}
    elif change == "metricType":
        trigger["metricType"] = "Value"
    else:
        percent = {"type": "Percent", "value": 50, "periodSeconds": 60}
        behavior["scaleUp"] = {**pods, "policies": [percent]}

    with pytest.raises(ValueError, match="understood"):
        Rule.of(manifest)


# ---------------------------------------------------------------------- the shipped rules


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_a_burst_of_500_jobs_brings_all_workers_once_and_leaves_none(rule: Rule) -> None:
    run = tried(rule, burst(500, IMAGE_S))

    assert len(run.waits_s) == 500
    assert max(moment.workers for moment in run.moments) == rule.most
    assert run.turns == 1, "up, then down"
    assert run.moments[0].workers == run.moments[-1].workers == 0
    last_busy_s = max(moment.at_s for moment in run.moments if moment.busy)
    assert 600 <= run.empty_at_s() - last_busy_s <= 1000


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize("busy_workers", [0.1, 0.5, 1.5, 2.5])
def test_a_steady_load_is_served_without_coming_and_going(rule: Rule, busy_workers: float) -> None:
    run = tried(rule, steady(busy_workers, IMAGE_S, hours=6), hours=6)

    assert run.turns <= 6, "once an hour"
    assert run.paid_s <= 2 * run.rendered_s + 6 * HOUR_S, "and not by keeping everybody"


def test_the_backlog_alone_takes_the_last_worker_from_a_farm_that_is_always_used() -> None:
    """Why the rules have a second trigger: what an idle worker takes at once is never seen to wait."""
    rule = RULES["worker-sd35-medium"]
    orders = steady(0.2, IMAGE_S, hours=6)

    alone = tried(replace(rule, triggers=rule.triggers[:1]), orders, hours=6)

    assert alone.turns >= 20
    assert tried(rule, orders, hours=6).turns == 0


def test_without_its_windows_the_rule_would_flap() -> None:
    rule = RULES["worker-sd35-medium"]
    hasty = replace(rule, triggers=rule.triggers[:1], up=Pace(0, 8, 15), down=Pace(0, 8, 15))

    assert tried(hasty, steady(2.5, IMAGE_S, hours=6), hours=6).turns > 100


def test_turns_are_changes_of_direction() -> None:
    assert turns([0, 1, 4, 4, 8, 7, 3, 0]) == 1
    assert turns([0, 1, 0, 0, 1, 1, 0]) == 3
    assert turns([2, 2, 2]) == 0
