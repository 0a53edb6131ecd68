"""The web UI AUTOMATIC1111: its orders in native words, and its answers."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from api.dialects.prompt_loras import take_loras
from api.dialects.wish import Wish, said
from shared.jobs import Job, JobStatus
from shared.loras import LoraEntry
from shared.models import SIDE_MULTIPLE_PX, ModelEntry

DENOISING_STRENGTH = 0.75
_MOST_SIDE_PX = 2**20
_SAME = frozenset({"prompt", "negative_prompt", "steps", "cfg_scale", "seed"})
_SIZES = ("width", "height")
_BATCH = ("batch_size", "n_iter")
_IMAGE = ("init_images", "mask", "denoising_strength", "inpainting_mask_invert")
_SHOWN = {*_SAME, *_SIZES, *_BATCH, "denoising_strength", "inpainting_mask_invert"}
_HASH = re.compile(r" \[[0-9a-f]{6,64}\]$")


def translate(body: Mapping[str, Any], chosen: str | None, *, image: bool = False) -> Wish:
    """`chosen` is the model that this owner picked in `options`; `image`: `img2img`.

    Input images stay as they came, `init_images[0]` as `init_image` and `mask` as `mask_image`.
    """
    given, wish = said(body), Wish()
    known = {*_SIZES, *_BATCH, "override_settings", *(_IMAGE if image else ())}
    wish.take(given, _SAME, known)
    take_loras(wish)
    for name in _SIZES:
        if name in given:
            wish.put(name, _rounded(given[name]), name)
    _count(wish, given)
    _checkpoint(wish, given.get("override_settings", {}), chosen)
    if image:
        _inputs(wish, given)
    return wish


def plain_name(title: str) -> str:
    """A title as `sd-models` lists it, without the hash at its end."""
    return _HASH.sub("", title)


def title(entry: ModelEntry) -> str:
    return f"{entry.id} [{entry.digest[:10]}]"


MOST_ROUNDED_PX = 10**6  # no model's; JSON has integers that no division takes


def _rounded(side: Any) -> Any:
    if not isinstance(side, int) or isinstance(side, bool) or abs(side) > MOST_ROUNDED_PX:
        return side
    if abs(side) > _MOST_SIDE_PX:  # no float holds every whole number; the model refuses it
        return side
    return max(SIDE_MULTIPLE_PX, round(side / SIDE_MULTIPLE_PX) * SIDE_MULTIPLE_PX)


def _count(wish: Wish, given: Mapping[str, Any]) -> None:
    counts = {name: given.get(name, 1) for name in _BATCH}
    for name, count in counts.items():
        if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= 1000:
            wish.refuse("invalid_value", name, "must be a whole number from 1")
            return
    n = counts["batch_size"] * counts["n_iter"]
    if n > 1:
        wish.put("n", n, "batch_size" if counts["batch_size"] > 1 else "n_iter")


def _checkpoint(wish: Wish, override: Any, chosen: str | None) -> None:
    if not isinstance(override, dict):
        wish.refuse("invalid_value", "override_settings", "must be an object")
        return
    name = override.get("sd_model_checkpoint")
    wish.ignored += [
        f"override_settings/{other}" for other in override if other != "sd_model_checkpoint"
    ]
    model = plain_name(name) if isinstance(name, str) else name
    if model or chosen:
        wish.put("model", model or chosen, "override_settings/sd_model_checkpoint")


def _inputs(wish: Wish, given: Mapping[str, Any]) -> None:
    images = given.get("init_images")
    if not isinstance(images, list) or not images or not isinstance(images[0], str):
        wish.refuse("missing_field", "init_images", "send one image in base64")
        return
    wish.put("init_image", images[0], "init_images/0")
    wish.ignored += ["init_images/1"] if len(images) > 1 else []
    strength = given.get("denoising_strength", DENOISING_STRENGTH)
    wish.put("strength", strength, "denoising_strength")
    if "mask" in given:
        wish.put("mask_image", given["mask"], "mask")


def answer(
    job: Job, pictures: Sequence[tuple[int, bytes, str]], entry: ModelEntry, given: dict[str, Any]
) -> dict[str, Any]:
    """`pictures`: (seed, bytes, infotext). `info` is JSON in a string, as this dialect has it.

    Of what was given only what had an effect comes back: some clients send their password along.
    """
    seeds = [seed for seed, _, _ in pictures]
    texts = [text for _, _, text in pictures]
    prompts, negative = job.input["prompt"], job.input["negative_prompt"]
    info = {
        "prompt": prompts,
        "all_prompts": [prompts] * len(seeds),
        "negative_prompt": negative,
        "all_negative_prompts": [negative] * len(seeds),
        "seed": job.input["seed"],
        "all_seeds": seeds,
        "width": job.input["width"],
        "height": job.input["height"],
        "sampler_name": SAMPLER,
        "cfg_scale": job.input["guidance_scale"],
        "steps": job.input["steps"],
        "batch_size": len(seeds),
        "denoising_strength": job.input["strength"],
        "sd_model_name": entry.id,
        "sd_model_hash": entry.digest[:10],
        "infotexts": texts,
        "index_of_first_image": 0,
        "job_timestamp": str(int(job.created_at)),
    }
    images = [base64.b64encode(data).decode() for _, data, _ in pictures]
    shown = {k: v for k, v in given.items() if k in _SHOWN}
    return {"images": images, "parameters": shown, "info": json.dumps(info)}


SAMPLER, SCHEDULER = "Euler", "Simple"  # what the infotexts say too


def models(entries: Sequence[ModelEntry]) -> list[dict[str, Any]]:
    return [
        {
            "title": title(entry),
            "model_name": entry.id,
            "hash": entry.digest[:10],
            "sha256": entry.digest,
            "filename": entry.id,  # no path of ours is anybody's business
            "config": None,
        }
        for entry in entries
    ]


def loras(entries: Sequence[LoraEntry]) -> list[dict[str, Any]]:
    return [
        {
            "name": lora.name,
            "alias": lora.name,
            "path": lora.name,  # as with `filename` above
            "metadata": {"ss_output_name": lora.title, "sshs_model_hash": lora.sha256},
        }
        for lora in entries
    ]


def progress(job: Job | None, current: str | None, eta_s: float | None) -> dict[str, Any]:
    """How far the job is, 0 to 1; nothing while there is none, as the web UI has it."""
    busy = job is not None and not job.done
    images = job.images if job and busy else ()
    done = [image for image in images if image.finished_at is not None]
    steps = [(image.render.step, image.render.spec.steps_to_run) for image in images]
    made = sum(
        1.0 if i.finished_at is not None else i.render.step / i.render.spec.steps_to_run
        for i in images
    )
    running = next((s for s, i in zip(steps, images, strict=True) if i.finished_at is None), (0, 0))
    asked = job is not None and job.cancel_requested_at is not None
    return {
        "progress": round(made / len(images), 4) if images else 0.0,
        "eta_relative": eta_s or 0.0,
        "state": {
            "skipped": False,
            "interrupted": asked or (job is not None and job.status is JobStatus.canceled),
            "stopping_generation": asked and busy,
            "job": job.id if job and busy else "",
            "job_count": len(images),
            "job_timestamp": str(int(job.created_at)) if job else "0",
            "job_no": len(done),
            "sampling_step": running[0],
            "sampling_steps": running[1],
        },
        "current_image": current,
        "textinfo": None,
    }
