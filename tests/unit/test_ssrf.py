"""What the guard lets through and what not, however an address is dressed up."""

from __future__ import annotations

import ipaddress

import pytest

from shared.errors import SettingsError, UrlNotAllowed
from shared.ssrf import Hosts, addresses, judge, read_target

NOBODY = Hosts()
PUBLIC = ("93.184.216.34", "1.1.1.1", "2606:4700::1111", "64:ff9b::5db8:d822", "2002:101:101::1")
NOT_PUBLIC = (
    "0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.8.8.8",
    "169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.192", "192.168.1.1", "198.18.0.1",
    "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255", "168.63.129.16",
    "::", "::1", "::127.0.0.1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "fec0::1",
    "ff02::1", "::ffff:127.0.0.1", "::ffff:a9fe:a9fe", "2002:7f00:1::", "2002:a9fe:a9fe::1",
    "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "2001::1", "2001:db8::1", "100::1",
    "::ffff:0:127.0.0.1", "5f00::1", "3fff::1",
)  # fmt: skip


def is_let_through(address: str, trusted: Hosts = NOBODY) -> bool:
    try:
        judge(ipaddress.ip_address(address), trusted)
    except UrlNotAllowed:
        return False
    return True


def test_public_addresses_are_let_through() -> None:
    assert [a for a in PUBLIC if not is_let_through(a)] == []


def test_all_others_are_not() -> None:
    assert [a for a in NOT_PUBLIC if is_let_through(a)] == []


def test_what_is_public_to_python_is_refused_only_where_we_know_why() -> None:
    """The standard library's own table is a second opinion on every /8 and on each edge of ours."""
    for first in range(256):
        address = ipaddress.IPv4Address(f"{first}.77.77.77")
        ours, theirs = is_let_through(str(address)), address.is_global and not address.is_multicast
        assert ours == theirs, address


def test_the_operator_may_trust_a_network() -> None:
    trusted = Hosts.of("10.1.0.0/16 ::1 192.168.7.7")

    assert is_let_through("10.1.2.3", trusted)
    assert is_let_through("::ffff:10.1.2.3", trusted)
    assert is_let_through("::1", trusted)
    assert not is_let_through("10.2.0.1", trusted)
    assert not is_let_through("192.168.7.8", trusted)


@pytest.mark.parametrize(
    ("url", "host", "port", "path"),
    [
        ("https://example.com", "example.com", 443, b"/"),
        ("HTTPS://EXAMPLE.com./a?b=c#d", "example.com", 443, b"/a?b=c"),
        ("https://example.com:8443/x", "example.com", 8443, b"/x"),
        ("https://bücher.example/", "xn--bcher-kva.example", 443, b"/"),
        ("https://xn--bcher-kva.example/", "xn--bcher-kva.example", 443, b"/"),
        ("https://1.1.1.1/", "1.1.1.1", 443, b"/"),
        ("https://[2606:4700::1111]:444/", "2606:4700::1111", 444, b"/"),
        ("https://example.com/ä b".replace(" ", "%20"), "example.com", 443, b"/%C3%A4%20b"),
    ],
)
def test_a_good_url_is_read(url: str, host: str, port: int, path: bytes) -> None:
    target = read_target(url, NOBODY)

    assert (target.host, target.port, target.path) == (host, port, path)


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/", "ftp://example.com/", "file:///etc/passwd", "//example.com", "", "x",
        "https://", "https:example.com", "https:///path", "https://:443/",
        "https://user:secret@example.com/", "https://user@example.com/", "https://%40@example.com/",
        "https://example.com\\@evil.example/", "https://example.com\t/", "https://exa mple.com/",
        "https://example.com/\n", "https://example.com/\x00", "https://example.com:0/",
        "https://example.com:65536/", "https://example.com:x/", "https://a..b/", "https://.a/",
        "https://-a.b/", "https://%31%32%37.0.0.1/", "https://127.0.0.1%00.example/",
        "https://" + "a" * 64 + ".com/", "https://" + "a." * 127 + "com/", "https://x/" + "y" * 2048,
        "https://2130706433/", "https://0x7f000001/", "https://0x7f.1/", "https://0177.0.0.1/",
        "https://127.1/", "https://127.0.1/", "https://0/", "https://127.0.0.1./", "https://0x/",
        "https://１２７.0.0.1/", "https://①②⑦.0.0.1/", "https://127。0。0。1/", "https://[::1]/",
        "https://[fe80::1%25eth0]/", "https://[fe80::1%eth0]/", "https://[::ffff:127.0.0.1]/",
        "https://[::ffff:7f00:1]/", "https://[64:ff9b::a9fe:a9fe]/", "https://[::]/", "https://[/",
        "https://169.254.169.254/latest/meta-data/", "https://10.0.0.1/", "https://\ud800.example/",
    ],
)  # fmt: skip
def test_a_bad_url_is_refused_with_its_reason(url: str) -> None:
    with pytest.raises(UrlNotAllowed, match=r"^(has|is|must|spells|leads) "):
        read_target(url, NOBODY)


def test_plain_http_is_for_trusted_hosts_only() -> None:
    trusted = Hosts.of("hooks.internal 127.0.0.1")

    assert read_target("http://hooks.internal/a", trusted).origin == "http://hooks.internal:80"
    assert read_target("http://HOOKS.internal./a", trusted).host == "hooks.internal"
    assert read_target("http://127.0.0.1:9/", trusted).port == 9
    for url in ("http://evil.hooks.internal/", "http://127.0.0.2/", "http://hooks.internal.evil/"):
        with pytest.raises(UrlNotAllowed):
            read_target(url, trusted)


def test_one_bad_address_among_good_ones_is_enough() -> None:
    with pytest.raises(UrlNotAllowed):
        addresses("a.example", 443, NOBODY, lambda host, port: ["1.1.1.1", "10.0.0.1"])
    with pytest.raises(UrlNotAllowed):
        addresses("a.example", 443, NOBODY, lambda host, port: ["fe80::1%eth0"])


def test_a_trusted_name_may_lead_anywhere() -> None:
    trusted = Hosts.of("hooks.internal")

    assert addresses("hooks.internal", 80, trusted, lambda h, p: ["10.0.0.1"]) == ["10.0.0.1"]


@pytest.mark.parametrize("text", ["10.0.0.1/8", "a b*c", "https://x", "a..b", "café"])
def test_a_misspelt_trust_is_refused_at_start(text: str) -> None:
    with pytest.raises(SettingsError):
        Hosts.of(text)
