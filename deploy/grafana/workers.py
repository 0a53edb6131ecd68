"""GPU workers: state, use, memory, cards, starts and ends."""

from __future__ import annotations

from deploy.grafana.board import Board, Chart

_W = 'model=~"$model",worker=~"$worker"'


def _mean(series: str) -> str:
    return f"sum by (model) (rate({series}_sum{{{_W}}}[5m])) / sum by (model) (rate({series}_count{{{_W}}}[5m]))"


BOARD = Board(
    uid="renderfarm-workers",
    title="GPU workers",
    text="What each worker and its card does. Series of the driver are those of the worker, or of dcgm-exporter.",
    variables=("model", "worker"),
    rows=[
        ("Workers", [
            Chart("State", "Workers by state.", "short",
                  [('sum by (state) (max by (model, pool, state) (renderfarm_workers{model=~"$model"}) > 0)', "{{state}}")], "stacked"),
            Chart("Who is where", "The state of each worker now.", "short",
                  [(f"max by (worker, model, state) (renderfarm_worker_state{{{_W}}})", "{{worker}} {{state}}")], "table"),
            Chart("Deaths", "Workers that died within the last hour, by cause.", "short",
                  [("max by (cause) (increase(renderfarm_worker_deaths_total[1h]))", "{{cause}}")]),
            Chart("Starts", "How often a worker's process started within the last hour.", "short",
                  [(f"max by (worker) (changes(renderfarm_worker_start_timestamp_seconds{{{_W}}}[1h]))", "{{worker}}")]),
        ]),
        ("Use", [
            Chart("Busy", "Part of the time from a claim until the device is free.", "percentunit",
                  [(f"renderfarm:worker_busy:ratio_rate5m{{{_W}}}", "{{worker}}")]),
            Chart("Idle gap", "Time between two renders; with a backlog half should be below 5 ms.", "s",
                  [(f"histogram_quantile({q}, sum by (le) (rate(renderfarm_worker_idle_seconds_bucket{{{_W}}}[5m])))", f"p{int(100 * q)}")
                   for q in (0.5, 0.95)]),
            Chart("Ends", "How this worker's renders end, each second.", "ops",
                  [(f"sum by (outcome) (rate(renderfarm_renders_total{{{_W}}}[5m]))", "{{outcome}}")]),
        ]),
        ("One render", [
            Chart("Phases", "Mean time of each phase of a render.", "s",
                  [(f"sum by (phase) (rate(renderfarm_render_phase_seconds_sum{{{_W}}}[5m])) "
                    f"/ sum by (phase) (rate(renderfarm_render_phase_seconds_count{{{_W}}}[5m]))", "{{phase}}")], "stacked"),
            Chart("One step", "Mean time of one denoising step.", "s",
                  [(_mean("renderfarm_denoise_step_seconds"), "{{model}}")]),
            Chart("Attempts", "Mean number of attempts that a picture took.", "short",
                  [(_mean("renderfarm_render_attempts"), "{{model}}")]),
            Chart("Pixels", "Pixels of the pictures that were made, each second.", "short",
                  [(f"sum by (model) (rate(renderfarm_rendered_pixels_total{{{_W}}}[5m]))", "{{model}}")]),
        ]),
        ("Arithmetic", [
            Chart("FLOP/s", "Arithmetic of the last denoising, by formula.", "flops",
                  [(f"renderfarm_denoise_flops_per_second{{{_W}}}", "{{worker}}")]),
            Chart("Share of the ceiling", "FLOP/s by those of large matrix products on the same device.", "percentunit",
                  [(f"renderfarm_denoise_ceiling_ratio{{{_W}}}", "{{worker}}")], quiet=True),
            Chart("Prompts", "Prompts each second: encoded, or remembered from an earlier render.", "ops",
                  [(f"sum by (outcome) (rate(renderfarm_prompts_total{{{_W}}}[5m]))", "{{outcome}}")]),
            Chart("Loading", "Time of each step of loading the model, at the last start.", "s",
                  [(f"max by (step) (renderfarm_model_load_seconds{{{_W}}})", "{{step}}")]),
        ]),
        ("Memory", [
            Chart("Device memory of the worker", "After its last render: tensors, their peak, what the allocator holds, what the card has.", "bytes",
                  [(f"max by (worker, kind) (renderfarm_device_memory_bytes{{{_W}}})", "{{worker}} {{kind}}")], quiet=True),
            Chart("Most that a render took", "Device memory at the peak of the last render.", "bytes",
                  [(f"renderfarm_render_peak_memory_bytes{{{_W}}}", "{{worker}}")], quiet=True),
            Chart("Memory of the process", "Resident memory of the worker on the host.", "bytes",
                  [(f"process_resident_memory_bytes{{{_W}}}", "{{worker}}")]),
            Chart("Memory of the container", "Used, and the limit where there is one.", "bytes",
                  [(f"renderfarm_container_memory_bytes{{{_W}}}", "{{worker}} {{kind}}")], quiet=True),
        ]),
        ("Cards", [
            Chart("Cards that tell", "Workers with a card whose driver answers.", "short",
                  [(f"sum(renderfarm_gpu_present{{{_W}}})", "cards")], "number"),
            Chart("Computing", "Part of the last moment in which the card computed.", "percentunit",
                  [(f"renderfarm_gpu_utilization_ratio{{{_W}}}", "{{worker}}"),
                   ("DCGM_FI_DEV_GPU_UTIL / 100", "{{Hostname}} {{gpu}}")], quiet=True),
            Chart("Power", "Power that the card takes.", "watt",
                  [(f"renderfarm_gpu_power_watts{{{_W}}}", "{{worker}}"),
                   ("DCGM_FI_DEV_POWER_USAGE", "{{Hostname}} {{gpu}}")], quiet=True),
            Chart("Temperature", "Temperature of the card.", "celsius",
                  [(f"renderfarm_gpu_temperature_celsius{{{_W}}}", "{{worker}}"),
                   ("DCGM_FI_DEV_GPU_TEMP", "{{Hostname}} {{gpu}}")], quiet=True),
            Chart("Memory of the card", "Used by all processes on it.", "bytes",
                  [(f'renderfarm_gpu_memory_bytes{{{_W},kind="used"}}', "{{worker}}"),
                   ("DCGM_FI_DEV_FB_USED * 1048576", "{{Hostname}} {{gpu}}")], quiet=True),
            Chart("Faults", "Xid events and memory errors within the last hour.", "short",
                  [(f"sum by (worker) (increase(renderfarm_gpu_xid_errors_total{{{_W}}}[1h]))", "{{worker}} Xid"),
                   (f"sum by (worker, kind) (increase(renderfarm_gpu_ecc_errors_total{{{_W}}}[1h]))", "{{worker}} ECC {{kind}}"),
                   ("increase(DCGM_FI_DEV_ECC_DBE_VOL_TOTAL[1h])", "{{Hostname}} {{gpu}} ECC")], quiet=True),
        ]),
    ],
)  # fmt: skip
