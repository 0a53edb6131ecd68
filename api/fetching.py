"""Input pictures by URL: only from hosts that the operator named, and never past the guard."""

from __future__ import annotations

from dataclasses import dataclass

from shared.errors import SettingsError, UrlNotAllowed
from shared.intake import MOST_BYTES
from shared.outbound import Outbound, trust
from shared.settings import Settings
from shared.ssrf import Hosts, take_apart

LIMIT_S = 10.0
EVERY_PUBLIC_HOST = "*"


@dataclass(slots=True, frozen=True)
class Fetcher:
    """`outbound` None: nothing is fetched. `everywhere`: also from public hosts without a name here."""

    outbound: Outbound | None
    everywhere: bool

    @staticmethod
    def of(settings: Settings) -> Fetcher:
        """Raises SettingsError."""
        words = settings.input_url_hosts.split()
        if not words:
            return Fetcher(None, everywhere=False)
        named = [word for word in words if word != EVERY_PUBLIC_HOST]
        try:
            hosts = Hosts.of(" ".join(named))
        except SettingsError as error:
            raise SettingsError(f"FARM_INPUT_URL_HOSTS: {error}") from None
        return Fetcher(Outbound(hosts, trust(None)), len(named) < len(words))

    def get(self, url: str) -> bytes:
        """The bytes that lie there, at most 20 MiB and 10 s. Raises UrlNotAllowed, OutboundFailed."""
        if self.outbound is None:
            raise UrlNotAllowed("is not fetched here: send the picture itself")
        host = take_apart(url).host
        if not self.everywhere and not self.outbound.trusted.covers(host):
            raise UrlNotAllowed("is of a host that this farm does not fetch from")
        return self.outbound.get(url, limit_s=LIMIT_S, limit_bytes=MOST_BYTES)
