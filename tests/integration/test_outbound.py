"""Guarded requests over real sockets: the pinned address, TLS, the one time limit, no redirects."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from shared.errors import OutboundFailed, SettingsError, UrlNotAllowed
from shared.outbound import Outbound, trust
from shared.ssrf import Hosts, Resolver
from tests.receiver import certificate, dripping, receiving
from tests.servers import need

LOOPBACK = Hosts.of("127.0.0.0/8")
LIMIT_S = 5.0


def post(url: str, trusted: Hosts = LOOPBACK, *, limit_s: float = LIMIT_S, **how: object) -> int:
    outbound = Outbound(trusted, how.pop("tls", None) or trust(None), **how)  # type: ignore[arg-type]
    return outbound.post(url, {"X-Test": "1"}, b"{}", limit_s=limit_s)


def leading_to(*answers: str) -> Resolver:
    """A resolver that gives another answer at each question."""
    left = list(answers)
    return lambda host, port: [left.pop(0)]


@pytest.fixture(scope="module")
def cert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need("openssl")
    return certificate(tmp_path_factory.mktemp("cert"))


def test_the_host_header_is_the_name_and_the_path_is_whole() -> None:
    with receiving() as receiver:
        port = receiver.url.split(":")[2].split("/")[0]

        status = post(f"http://127.0.0.1:{port}/hook?a=b%20c#d")

    (headers, body) = receiver.got[0]
    assert (status, body, headers["x-test"]) == (204, b"{}", "1")
    assert headers["host"] == f"127.0.0.1:{port}"


def test_the_address_that_was_judged_is_the_one_that_is_connected_to() -> None:
    """A name that is public when asked first and loopback when asked again is asked once."""
    asked: list[str] = []

    def rebinding(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["192.0.2.1"] if len(asked) == 1 else ["127.0.0.1"]

    with receiving() as receiver:
        port = receiver.url.split(":")[2].split("/")[0]
        trusted = Hosts.of("192.0.2.1 rebind.example")
        with pytest.raises(OutboundFailed):
            post(f"http://rebind.example:{port}/", trusted, resolve=rebinding, limit_s=0.3)

    assert (asked, receiver.got) == (["rebind.example"], [])


def test_the_connection_goes_to_that_address_under_the_name() -> None:
    with receiving() as receiver:
        port = receiver.url.split(":")[2].split("/")[0]

        post(
            f"http://hooks.internal:{port}/", Hosts.of("hooks.internal"),
            resolve=leading_to("127.0.0.1"),
        )  # fmt: skip

    assert receiver.got[0][0]["host"] == f"hooks.internal:{port}"


@pytest.mark.parametrize("address", ["127.0.0.1", "169.254.169.254", "::1", "::ffff:127.0.0.1"])
def test_a_public_name_that_leads_inside_is_refused(address: str) -> None:
    with pytest.raises(UrlNotAllowed, match="not on the public internet"):
        post("https://innocent.example/", Hosts(), resolve=leading_to(address))


def test_one_name_may_have_several_addresses_of_which_one_answers(free_port: int) -> None:
    with receiving(port=free_port) as receiver:
        status = post(
            f"http://127.0.0.1:{free_port}/", resolve=lambda h, p: ["127.9.9.9", "127.0.0.1"]
        )

    assert (status, len(receiver.got)) == (204, 1)


@pytest.fixture
def free_port() -> int:
    with receiving() as receiver:
        return int(receiver.url.split(":")[2].split("/")[0])


def test_redirects_are_not_followed() -> None:
    with receiving() as inside, receiving(lambda _: 302) as receiver:
        receiver.location = inside.url

        assert post(receiver.url) == 302

    assert inside.got == []


def test_no_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with receiving() as proxy, receiving() as receiver:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "HTTPS_PROXY"):
            monkeypatch.setenv(name, proxy.url)

        assert post(receiver.url) == 204

    assert (len(receiver.got), proxy.got) == (1, [])


def test_tls_is_verified_by_name_and_authority(cert: Path, tmp_path: Path) -> None:
    other = trust(certificate(tmp_path, "other.example"))
    local = Hosts.of("localhost")
    with receiving(cert=cert) as receiver:
        assert post(receiver.url, local, tls=trust(cert)) == 204
        for tls in (trust(None), other):
            with pytest.raises(OutboundFailed, match="certificate"):
                post(receiver.url, local, tls=tls)
        with pytest.raises(OutboundFailed, match="certificate"):  # right authority, wrong name
            post(receiver.url.replace("localhost", "127.0.0.1"), tls=trust(cert))

    assert len(receiver.got) == 1


def test_a_file_without_certificates_is_a_setting_that_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("nothing")
    for name in ("ca.pem", "missing.pem"):
        with pytest.raises(SettingsError, match="holds no certificates"):
            trust(tmp_path / name)


def test_a_receiver_that_hangs_is_left_after_the_limit() -> None:
    with receiving() as receiver:
        receiver.hold.clear()

        with pytest.raises(OutboundFailed, match=r"no answer within 0\.3 s"), at_most(2.0):
            post(receiver.url, limit_s=0.3)


def test_a_receiver_that_drips_is_left_after_the_same_limit() -> None:
    left = pytest.raises(OutboundFailed, match=r"no answer within 0\.4 s")
    with dripping() as url, left, at_most(2.0):
        post(url, limit_s=0.4)


def test_a_name_that_takes_as_long_as_the_limit_is_not_connected_to() -> None:
    def slow(host: str, port: int) -> list[str]:
        time.sleep(0.2)
        return ["127.0.0.1"]

    with receiving() as receiver, pytest.raises(OutboundFailed, match="no answer within"):
        post(receiver.url, resolve=slow, limit_s=0.1)

    assert receiver.got == []


def test_faults_of_the_network_are_told_in_plain_words(free_port: int) -> None:
    def nowhere(host: str, port: int) -> list[str]:
        raise OSError("Name or service not known")

    with pytest.raises(OutboundFailed, match="no connection to the receiver"):
        post(f"http://127.0.0.1:{free_port}/")
    with pytest.raises(OutboundFailed, match="cannot be looked up"):
        post("https://nowhere.example/", resolve=nowhere)


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    started = time.monotonic()
    yield
    assert time.monotonic() - started < seconds
