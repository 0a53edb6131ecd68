"""Who gets what from every route: one line for each. A route without a line fails the test.

A line is `"METHOD /path": kind(status for whom it is open, body=..., ...)`. The kinds:

`free`       no key is asked for
`keyed`      any key with the scope that the method needs: GET and HEAD `read`, all others `submit`
`about_job`  the same, and another owner's job is 404
`for_admin`  a key with the scope `admin`

`{job_id}` becomes a job of the owner, `{name}` becomes the value of that name in `PLACES`. The line of
a path holds for its `/v1` spelling, and the line of a GET for its HEAD.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

SECRET = "a vixen nobody else knows of"  # the prompt of the owner's job
ORDER = {"prompt": SECRET, "seed": 1, "width": 64, "height": 64}
PLACES = {
    "model_id": "tiny", "index": "0", "extension": "png", "render_id": "no-render",
    "name": "worker-0", "deployment": "tiny", "sha256": "a1" * 32,
}  # fmt: skip


@dataclass(frozen=True)
class Line:
    """`job` says whether the owner's job has finished when the route is asked."""

    kind: Literal["free", "keyed", "about_job", "for_admin"]
    status: int = 200
    body: Any = None
    job: Literal["done", "queued"] = "done"
    query: str = ""


free = partial(Line, "free")
keyed = partial(Line, "keyed")
about_job = partial(Line, "about_job")
for_admin = partial(Line, "for_admin")

LINES = {
    # jobs
    "POST /jobs": keyed(202, body={"prompt": "another fox"}),
    "GET /jobs": keyed(),
    "GET /jobs/{job_id}": about_job(),
    "DELETE /jobs/{job_id}": about_job(204),
    "POST /jobs/{job_id}/cancel": about_job(job="queued"),
    "POST /jobs/{job_id}/retry": about_job(409),
    "POST /jobs/{job_id}/verify": about_job(409, job="queued"),
    "GET /jobs/{job_id}/events": about_job(),
    "GET /jobs/{job_id}/result": about_job(),
    "GET /files/{job_id}/{index}.{extension}": about_job(),
    # webhooks
    "GET /webhooks/secret": keyed(),
    "POST /webhooks/secret/rotate": keyed(),
    "GET /jobs/{job_id}/deliveries": about_job(),
    "POST /jobs/{job_id}/redeliver": about_job(404),  # its job has no webhook
    # inputs: what of whose is asked in tests/unit/test_api_inputs.py
    "POST /inputs": keyed(400),
    "GET /inputs/{sha256}": keyed(404),
    # dialects: orders without a prompt, so that nobody waits; what they draw has tests of its own
    "OPTIONS /images/generations": free(204),
    "POST /images/generations": keyed(400, body={}),
    "POST /images/edits": keyed(415, body={}),
    "POST /images/variations": keyed(415, body={}),
    "POST /openai/deployments/{deployment:path}/images/generations": keyed(400, body={}),
    "POST /openai/deployments/{deployment:path}/images/edits": keyed(415, body={}),
    "POST /txt2img": keyed(400, body={}),
    "POST /sdapi/v1/txt2img": keyed(400, body={"width": "x"}),
    "POST /sdapi/v1/img2img": keyed(400, body={"width": "x"}),
    "POST /sdapi/v1/interrupt": keyed(),
    "POST /sdapi/v1/png-info": keyed(400, body={}),
    "POST /sdapi/v1/options": keyed(body={}),
    "GET /sdapi/v1/options": keyed(),
    "GET /sdapi/v1/progress": keyed(),
    **{
        f"GET /sdapi/v1/{name}": keyed()
        for name in (
            "sd-models",
            "samplers",
            "schedulers",
            "upscalers",
            "latent-upscale-modes",
            "sd-vae",
            "sd-modules",
            "loras",
        )
    },
    # models
    "GET /models": keyed(),
    "GET /models/{model_id:path}": keyed(),
    # operations
    "GET /healthz": free(),
    "GET /readyz": free(),
    "GET /status": free(),
    "GET /metrics": free(),
    "GET /errors": free(),
    "GET /poison": for_admin(),
    "POST /poison/{render_id}/retry": for_admin(404),
    "DELETE /poison/{render_id}": for_admin(404),
    "GET /audit": for_admin(),
    "GET /queue": keyed(),
    "GET /workers": for_admin(),
    "POST /workers/{name:path}/drain": for_admin(),
    "POST /workers/{name:path}/release": for_admin(),
    # pages
    "GET /": free(),
    "GET /web": free(query="/app.js"),
    "GET /docs": free(),
    "GET /docs/assets": free(query="/swagger-ui.css"),
    "GET /openapi.json": free(),
}
