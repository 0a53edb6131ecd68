"""What only a server can do: refuse, be absent, check a certificate."""

from collections.abc import Callable, Iterator

import pytest
from fastapi import FastAPI, Request, Response
from results_samples import FINGERPRINT, PNG, name, sample

from deploy.ports import free_port
from shared.errors import ResultsUnavailable, SettingsError
from shared.results import open_results
from shared.results.port import ResultStore
from shared.results.s3 import S3Results
from shared.settings import load_settings
from tests.loopback import serving
from tests.servers.grounds import Bucket
from tests.servers.rgw import Rgw

Answer = tuple[int, dict[str, str], bytes]
EVERY_CALL: list[Callable[[ResultStore], object]] = [
    lambda store: store.put(sample(), PNG, {}),
    lambda store: store.find(FINGERPRINT),
    lambda store: store.read(sample()),
    lambda store: store.delete(sample()),
    lambda store: store.check(),
    lambda store: list(store.walk()),
]
CALLS = pytest.mark.parametrize(
    "call", EVERY_CALL, ids=["put", "find", "read", "delete", "check", "walk"]
)


@pytest.fixture
def bucket(make_bucket: Callable[[str], Bucket]) -> Bucket:
    return make_bucket("http")


@pytest.mark.s3
@CALLS
@pytest.mark.parametrize("wrong", [{"secret_key": "not-it"}, {"access_key": "NOBODY"}])
def test_wrong_keys_are_refused_and_never_shown(
    bucket: Bucket, call: Callable[[ResultStore], object], wrong: dict[str, str]
) -> None:
    with pytest.raises(ResultsUnavailable, match="refuses these keys") as refusal:
        call(bucket.store(**wrong))

    shown = f"{refusal.value} {refusal.value.__cause__}"
    assert not any(key in shown for key in [*wrong.values(), bucket.arguments["secret_key"]])


@pytest.mark.s3
@CALLS
def test_a_missing_bucket_is_named_with_the_way_to_make_it(
    rgw: Rgw, bucket: Bucket, call: Callable[[ResultStore], object]
) -> None:
    store = S3Results("never-made", **bucket.arguments)

    with pytest.raises(ResultsUnavailable, match="aws s3 mb s3://never-made --endpoint-url"):
        call(store)


@CALLS
def test_a_server_that_is_down_makes_every_call_fail(
    call: Callable[[ResultStore], object],
) -> None:
    store = S3Results(
        "farm",
        endpoint=f"http://somebody:a-password@127.0.0.1:{free_port()}",
        access_key="AKEY",
        secret_key="a-secret",
    )

    with pytest.raises(ResultsUnavailable, match=r"127\.0\.0\.1") as failure:
        call(store)

    assert "a-secret" not in str(failure.value)
    assert "a-password" not in str(failure.value)


@pytest.mark.s3
def test_a_certificate_that_nobody_vouches_for_is_refused(
    make_bucket: Callable[[str], Bucket], monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = make_bucket("https")
    monkeypatch.delenv("AWS_CA_BUNDLE")

    with pytest.raises(ResultsUnavailable, match="certificate"):
        bucket.store().check()


@pytest.mark.s3
def test_the_picture_carries_its_own_hash(bucket: Bucket) -> None:
    bucket.store().put(sample(), PNG, {})

    assert bucket.metadata(name(sample(), "png")) == {"sha256": sample().sha256}


@pytest.mark.s3
def test_settings_open_the_bucket_they_name(bucket: Bucket) -> None:
    settings = load_settings(
        {
            "FARM_S3_BUCKET": bucket.name,
            "FARM_S3_ENDPOINT": bucket.arguments["endpoint"],
            "FARM_S3_ACCESS_KEY": bucket.arguments["access_key"],
            "FARM_S3_SECRET_KEY": bucket.arguments["secret_key"],
            "FARM_S3_PREFIX": "farm-a/",
        }
    )

    open_results(settings).put(sample(), PNG, {})

    assert f"farm-a/{name(sample(), 'png')}" in bucket.names()


def test_an_impossible_endpoint_is_a_fault_of_the_settings() -> None:
    with pytest.raises(SettingsError, match=r"127\.0\.0\.1:9000"):
        S3Results("farm", endpoint="127.0.0.1:9000", access_key="a", secret_key="b")


def test_one_key_without_the_other_is_a_fault_of_the_settings() -> None:
    with pytest.raises(SettingsError, match="FARM_S3_"):
        S3Results("farm", endpoint="http://127.0.0.1:9000", access_key="a")


@pytest.fixture
def stranger() -> Iterator[Callable[[Answer], S3Results]]:
    """A store on a server that gives every request this answer: (status, headers, body)."""
    given: list[Answer] = []

    async def answer(_request: Request) -> Response:
        status, headers, body = given[0]
        return Response(body, status, headers)

    app = FastAPI()
    app.add_route("/{path:path}", answer, ["GET", "PUT", "DELETE", "HEAD"])
    with serving(app) as url:

        def store(answer: Answer) -> S3Results:
            given[:] = [answer]
            return S3Results("farm", endpoint=url, access_key="a", secret_key="b")

        yield store


@pytest.mark.parametrize(
    ("call", "answer"),
    [
        (lambda store: store.read(sample()), (200, {"Content-Type": "text/html"}, b"<html>")),
        (lambda store: store.find(FINGERPRINT), (302, {"Location": "/login"}, b"")),
    ],
    ids=["a page", "a login"],
)
def test_a_server_that_is_no_s3_is_unavailable(
    stranger: Callable[[Answer], S3Results],
    call: Callable[[ResultStore], object],
    answer: Answer,
) -> None:
    with pytest.raises(ResultsUnavailable):
        call(stranger(answer))
