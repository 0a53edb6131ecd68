"""Every knob of the farm, read once from `FARM_*` variables. An unknown name refuses to start."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from shared.errors import SettingsError

PREFIX = "FARM_"


def knob(default: object, description: str, **limits: Any) -> Any:
    return Field(default, description=description, **limits)


class Settings(BaseModel):
    """Frozen. Times are seconds (`_s`). An empty value means: use the default."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    # where things are
    redis_url: SecretStr = knob(
        SecretStr("redis://127.0.0.1:6379/0"),
        "Redis or Valkey, 6.2 or newer, with AOF and `noeviction`: `redis://`, with TLS `rediss://`, behind Sentinel "
        "`redis+sentinel://host:port,host:port/service`; `renderfarm up` starts its own unless this is set",
    )
    redis_ca_file: Path | None = knob(
        None, "The authority that signed the certificate of Redis; else the system's"
    )
    durability: Literal["auto", "always", "waitaof", "off"] = knob(
        "auto",
        "When an order may be answered 202: `always` wants a Redis that syncs every write, `waitaof` waits for its sync, "
        "`off` trusts the server as it is; `auto` takes the first that the server can do, and warns of `off`",
    )
    durable_replicas: int = knob(
        0, "Replicas of Redis that must have an order too before it is answered 202", ge=0
    )
    data_dir: Path = knob(
        Path("data"), "Folder of `renderfarm up`: Redis data, pictures, logs, the tiny model"
    )
    models_file: Path | None = knob(None, "A `models.toml` of your own instead of the shipped one")
    default_model: str | None = knob(
        None,
        "Model of an order that names none, and of a worker that is told none; else the file's `default`",
    )
    model_cache_dir: Path | None = knob(
        None, "Where downloaded and built models lie; else `models` in the data folder"
    )
    hf_endpoint: str | None = knob(None, "A mirror of Hugging Face to download from")
    hf_token: SecretStr | None = knob(None, "Hugging Face token for gated models")
    modelscope_endpoint: str | None = knob(None, "A mirror of ModelScope to download from")
    modelscope_token: SecretStr | None = knob(
        None, "ModelScope token for repositories that are not open"
    )

    # the result store
    s3_bucket: str | None = knob(None, "Bucket for pictures; without it they lie in a local folder")
    s3_endpoint: str | None = knob(None, "URL of an S3-compatible server; without it AWS")
    s3_region: str = knob("us-east-1", "Region to sign for")
    s3_access_key: SecretStr | None = knob(
        None, "Access key; without it boto3's own search (environment, profile, role)"
    )
    s3_secret_key: SecretStr | None = knob(None, "Secret key")
    s3_path_style: bool = knob(True, "`endpoint/bucket/key` URLs instead of `bucket.endpoint/key`")
    s3_prefix: str = knob("", "Put before every object name, such as `farm-a/`")
    results_dir: Path | None = knob(
        None, "Local folder for pictures; else `results` in the data folder"
    )

    # the API
    host: str = knob("127.0.0.1", "Address the API binds")
    port: int = knob(8000, "Port the API binds", ge=0, le=65535)
    public_url: str | None = knob(
        None,
        "What absolute URLs start with, when clients reach the API by another name",
        pattern=r"^https?://[^/]",
    )
    trust_proxy: bool = knob(False, "Believe `X-Forwarded-Proto` and `X-Forwarded-Host`")
    api_keys: SecretStr = knob(
        SecretStr(""),
        "Keys as `owner:key`, separated by spaces; `owner:key:admin` may see every job. `renderfarm keys add` makes others. None at all: open, on loopback only",
    )
    api_keys_file: Path | None = knob(
        None,
        "A file of keys, read again when it changes: `owner:key[:admin]` on each line, or TOML; docs/owners.md has both",
    )
    submits_per_min: int = knob(
        60, "Orders a minute of an owner whose key does not say; 0: no limit", ge=0, le=1_000_000
    )
    max_queued: int = knob(
        200, "Queued renders of an owner whose key does not say; 0: no limit", ge=0
    )
    max_queued_gpu_s: float = knob(
        0.0,
        "Predicted device seconds of the queued renders of an owner whose key does not say; 0: no limit",
        ge=0,
    )
    cache_scope: Literal["shared", "owner"] = knob(
        "shared",
        "`owner`: no order is answered with, or joins, a render of another owner; a change leaves what is stored behind",
    )
    allow_open: bool = knob(False, "Serve without keys on an address that is not loopback")
    signing_secret: SecretStr | None = knob(
        None, "Signs file URLs; without it one is made and kept in Redis"
    )
    file_url_ttl_s: int = knob(3600, "How long a signed file URL opens", ge=2)
    sync_wait_s: float = knob(
        230.0, "How long the routes that answer with the picture itself wait for it", gt=0
    )
    sync_heartbeat_s: float = knob(
        0.0,
        "If set, such a route sends a space each so many seconds of waiting, where the answer is JSON, "
        "for proxies that cut silent connections; a late fault is then an `error` in a 200",
        ge=0,
    )
    client_gone_s: float = knob(
        15.0,
        "So long after the client of such a route has left, its queued images are canceled",
        gt=0,
    )
    unknown_model: Literal["default", "reject"] = knob(
        "default", "What the OpenAI dialect makes of a model's name that this farm does not know"
    )
    list_aliases: bool = knob(
        False,
        "`GET /models` lists each alias as a model of its own, for clients that choose from that list",
    )
    edit_strength: float = knob(
        0.8, "How much an OpenAI edit may change its picture, where it does not say", gt=0, le=1
    )
    max_n: int = knob(10, "Most images in one job", ge=1, le=100)
    max_wait_s: int = knob(
        50, "Longest that `Prefer: wait` holds a request; most proxies cut at 60 s", ge=0
    )
    max_queue: int = knob(100_000, "Most queued renders of one model", ge=1)
    max_body_mb: int = knob(48, "Largest request body, MiB", ge=1)
    job_retention_s: int = knob(604_800, "How long a finished job is remembered", ge=60)
    result_retention_s: int = knob(
        0,
        "Age at which a stored picture goes that no remembered job refers to; 0: it stays for ever",
        ge=0,
    )
    api_drain_s: float = knob(
        5.0,
        "After SIGTERM the API refuses new orders but answers polls and files for so long before it stops listening",
        ge=0,
    )
    request_timeout_s: float = knob(
        60.0, "A request that has not arrived as a whole by then is cut off; 0: never", ge=0
    )
    max_connections: int = knob(
        10_000, "Most open connections of one API process; further ones get 503", ge=1
    )
    webhook_allow_hosts: str = knob(
        "",
        "Host names, addresses and CIDRs, separated by spaces, that webhooks may reach though they are not public, and over plain http",
    )
    webhook_ca_file: Path | None = knob(
        None, "An authority to trust besides the system's when a webhook is delivered"
    )
    input_url_hosts: str = knob(
        "",
        "Host names, addresses and CIDRs, separated by spaces, that an input picture may be fetched from, public or not; `*`: every public host. Empty: orders must bring their pictures",
    )
    metrics_token: SecretStr | None = knob(None, "If set, `/metrics` wants it as a Bearer token")

    # the workers
    worker_name: str | None = knob(None, "Name of this worker's slot; else host name and device")
    device: str = knob("auto", "`auto`, `cpu`, `cuda` or `cuda:N`")
    torch_threads: int = knob(
        0, "CPU threads of one worker; 0: 1 on a CPU, torch's choice on a GPU", ge=0
    )
    compile_threads: int = knob(
        4, "Processes in which one worker compiles its kernels, where its model is compiled", ge=1
    )
    prefetch: bool = knob(
        True,
        "Weights that are not in memory yet are read whole, side by side, before they are loaded",
    )
    lease_s: float = knob(
        6.0, "A render whose lease was not renewed for so long is given to another worker", ge=0.2
    )
    max_render_s: float = knob(
        1800.0, "A render that runs longer is hung: its lease is no longer renewed", gt=0
    )
    max_losses: int = knob(3, "A render that lost so many workers fails as `worker_lost`", ge=1)
    max_retries: int = knob(
        3,
        "How often a render is tried again after a fault that may pass, such as full device memory or a storage that does not answer",
        ge=0,
    )
    drain_s: float = knob(
        60.0,
        "After SIGTERM a worker may finish its render for so long before it gives it back",
        ge=0,
    )
    watchdog_s: float = knob(
        60.0,
        "A worker that takes nothing for so long while renders wait ends itself, to be started again; 0: never",
        ge=0,
    )
    unwell_failures: int = knob(
        3,
        "After so many failed renders in a row a worker tests itself, and leaves, to be started again, if that fails too; 0: never",
        ge=0,
    )
    max_rss_mb: int = knob(
        0, "A worker whose memory grew beyond this, MiB, leaves between two renders; 0: never", ge=0
    )
    max_device_memory_growth_mb: int = knob(
        0,
        "A worker that holds so much more device memory, MiB, than when it was ready leaves; 0: never",
        ge=0,
    )
    quarantine_after: int = knob(
        3,
        "A worker that left so often within an hour as unwell, or for a device fault, starts as `quarantined`",
        ge=1,
    )
    liveness_file: Path | None = knob(
        None,
        "Written every second by a worker that is well, with its state, and by chores that go round; for container probes",
    )
    worker_metrics_port: int | None = knob(
        None,
        "Serve this worker's Prometheus metrics on this port; `renderfarm up` gives its workers this and the next ones, or free ones",
        ge=1,
        le=65535,
    )
    chores_metrics_port: int | None = knob(
        None, "The same of the chores; `renderfarm up` gives them a free one", ge=1, le=65535
    )
    worker_metrics_host: str = knob("127.0.0.1", "Address that both of these ports bind")

    # all
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = knob(
        "INFO", "Least severe line that is logged"
    )
    log_format: Literal["json", "text"] = knob("json", "`json` for machines, `text` for people")
    otlp_endpoint: str | None = knob(
        None,
        "Traces go to this OTLP/HTTP collector, such as `http://collector:4318`; needs the extra `traces`. Empty: nothing is recorded",
        pattern=r"^https?://[^/]",
    )
    otlp_headers: SecretStr | None = knob(
        None, "What the collector wants to be told: `name=value`, separated by commas, URL-encoded"
    )
    trace_sample_ratio: float = knob(
        1.0,
        "Share of the orders that are traced; where a client brings its trace, its own flag decides",
        ge=0,
        le=1,
    )

    @property
    def redis_address(self) -> str:
        """What both clients of Redis are made from: the URL, with the authority to trust in it."""
        url = self.redis_url.get_secret_value()
        if self.redis_ca_file is None:
            return url
        return f"{url}{'&' if '?' in url else '?'}ssl_ca_certs={self.redis_ca_file.absolute()}"

    @property
    def cache_dir(self) -> Path:
        return self.model_cache_dir or self.data_dir / "models"

    @property
    def local_results_dir(self) -> Path:
        return self.results_dir or self.data_dir / "results"


def load_settings(environ: Mapping[str, str] = os.environ) -> Settings:
    """Raises SettingsError, which names every bad variable and never shows a value.

    A secret may lie in a file, as containers get theirs: `FARM_HF_TOKEN_FILE` names one that holds
    `FARM_HF_TOKEN`.
    """
    given = {name: value for name, value in environ.items() if name.startswith(PREFIX) and value}
    given = _with_files_read(given)
    fields = {name.removeprefix(PREFIX).lower(): value for name, value in given.items()}
    unknown = [
        name for name in given if name.removeprefix(PREFIX).lower() not in Settings.model_fields
    ]
    if unknown:
        raise SettingsError("; ".join(map(_unknown, sorted(unknown))))
    try:
        return Settings.model_validate(fields)
    except ValidationError as error:
        faults = (
            f"{variable(str(e['loc'][0]))}: {e['msg']}" for e in error.errors(include_input=False)
        )
        raise SettingsError("; ".join(faults)) from None


def shared_metrics_dir(environ: Mapping[str, str] = os.environ) -> Path | None:
    """Where API processes that share a port keep their counts; the variable is prometheus_client's."""
    folder = environ.get("PROMETHEUS_MULTIPROC_DIR")
    return Path(folder) if folder else None


def variable(field: str) -> str:
    return PREFIX + field.upper()


def _with_files_read(given: Mapping[str, str]) -> dict[str, str]:
    secrets = {
        variable(name)
        for name, field in Settings.model_fields.items()
        if SecretStr in (field.annotation, *get_args(field.annotation))
    }
    known = set(map(variable, Settings.model_fields))
    read = dict(given)
    for name in given.keys() - known:
        secret = name.removesuffix("_FILE")
        if secret != name and secret in secrets:
            if secret in given:
                raise SettingsError(f"{secret} and {name} are both set; keep one")
            read[secret] = _content(name, read.pop(name))
    return read


def _content(name: str, path: str) -> str:
    try:
        content = Path(path).read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "not text"
        raise SettingsError(f"{name}: cannot read {path}: {why}") from error
    if not content:
        raise SettingsError(f"{name}: {path} is empty")
    return content


def _unknown(name: str) -> str:
    close = difflib.get_close_matches(name, map(variable, Settings.model_fields), n=1)
    hint = f", did you mean {close[0]}?" if close else "; `renderfarm settings` lists them all"
    return f"unknown setting {name}{hint}"


def environment(settings: Settings) -> dict[str, str]:
    """The variables that make the same settings in a child process."""

    def text(value: object) -> str:
        return value.get_secret_value() if isinstance(value, SecretStr) else str(value)

    values = {name: getattr(settings, name) for name in Settings.model_fields}
    return {variable(name): text(value) for name, value in values.items() if value is not None}


def table() -> str:
    """The settings as a Markdown table."""
    rows = ["| variable | default | what it does |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = field.default
        shown = default.get_secret_value() if isinstance(default, SecretStr) else default
        cell = (
            ""
            if shown in (None, "")
            else f"`{str(shown).lower() if isinstance(shown, bool) else shown}`"
        )
        rows.append(f"| `{variable(name)}` | {cell} | {field.description} |")
    return "\n".join(rows)
