"""One URL for both clients of Redis."""

from __future__ import annotations

from pathlib import Path

import pytest
from redis.connection import SSLConnection

from shared.errors import SettingsError
from shared.settings import Settings
from shared.store.address import broker, connect
from shared.tickets import make_app


def test_a_plain_url_goes_to_both_clients_as_it_is() -> None:
    place = broker("redis://:pw@h:1/2")

    assert (place.url, place.tls, place.options) == ("redis://:pw@h:1/2", None, {})
    kwargs = connect("redis://:pw@h:1/2", patience_s=1).connection_pool.connection_kwargs
    assert (kwargs["host"], kwargs["port"], kwargs["db"], kwargs["password"]) == ("h", 1, 2, "pw")


def test_tls_verifies_with_the_authority_of_the_setting() -> None:
    settings = Settings(redis_url="rediss://h:1/0", redis_ca_file=Path("/etc/ca.crt"))

    kwargs = connect(settings.redis_address, patience_s=1).connection_pool.connection_kwargs
    app = make_app(settings)

    assert kwargs["ssl_ca_certs"] == "/etc/ca.crt"
    assert app.conf.broker_use_ssl == {
        "ssl_cert_reqs": "required", "ssl_ca_certs": "/etc/ca.crt",
    }  # fmt: skip


def test_sentinels_become_what_each_client_wants() -> None:
    url = "redis+sentinel://farm:p%40ss@a:1,[::1]:2,c/queue/3?sentinel_password=other"

    place = broker(url)
    pool = connect(url, patience_s=1).connection_pool

    assert place.url == (
        "sentinel://farm:p%40ss@a:1/3;sentinel://farm:p%40ss@[::1]:2/3;"
        "sentinel://farm:p%40ss@c:26379/3"
    )
    assert place.options["master_name"] == pool.service_name == "queue"
    assert place.options["sentinel_kwargs"]["password"] == "other"
    assert (pool.connection_kwargs["password"], pool.connection_kwargs["db"]) == ("p@ss", 3)
    asked = [s.connection_pool.connection_kwargs for s in pool.sentinel_manager.sentinels]
    assert [(a["host"], a["port"]) for a in asked] == [("a", 1), ("::1", 2), ("c", 26379)]
    assert {a["password"] for a in asked} == {"other"}


def test_sentinel_over_tls_is_tls_everywhere() -> None:
    url = "rediss+sentinel://a:1/queue?ssl_ca_certs=/etc/ca.crt"

    place = broker(url)

    assert place.tls == {"ssl_cert_reqs": "required", "ssl_ca_certs": "/etc/ca.crt"}
    assert place.options["sentinel_kwargs"]["ssl"] is True
    assert issubclass(connect(url, patience_s=1).connection_pool.connection_class, SSLConnection)


@pytest.mark.parametrize("url", ["redis+sentinel://a:1", "redis+sentinel://a:x/queue",
                                 "redis+sentinel://a:1/queue/x", "redis+sentinel:///queue"])  # fmt: skip
def test_a_misspelt_sentinel_url_says_how_it_is_spelt_and_hides_the_password(url: str) -> None:
    secret = url.replace("//a", "//:hunter2@a")

    with pytest.raises(SettingsError, match="redis\\+sentinel://host:port") as raised:
        connect(secret, patience_s=1)

    assert "hunter2" not in str(raised.value)
