"""URLs that open a picture without a key: HMAC-SHA256 over path and expiry."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from urllib.parse import urlencode

from shared.errors import SignatureWrong, UrlExpired
from shared.settings import Settings
from shared.store.port import JobStore


class Signer:
    """Signs paths without their spelling (`/v1`). Asks the store for the secret at first use."""

    def __init__(self, settings: Settings, store: JobStore) -> None:
        self._ttl_s = settings.file_url_ttl_s
        self._store = store
        given = settings.signing_secret
        self._secret = given.get_secret_value().encode() if given else b""

    def query(self, path: str) -> str:
        """`exp=..&sig=..`. Raises StoreUnavailable.

        Times are rounded to half the lifetime, so that a URL stays the same for as long and is
        never handed out with less than half of its life left.
        """
        half = self._ttl_s // 2
        expires = int(time.time()) // half * half + self._ttl_s
        return urlencode({"exp": expires, "sig": self._sign(path, str(expires))})

    def check(self, path: str, expires: str, signature: str) -> None:
        """Raises SignatureWrong, UrlExpired and StoreUnavailable."""
        if not hmac.compare_digest(self._sign(path, expires).encode(), signature.encode()):
            raise SignatureWrong
        if int(expires) <= time.time():
            raise UrlExpired

    def _sign(self, path: str, expires: str) -> str:
        message = f"{path}?exp={expires}".encode()
        return hmac.new(self._key(), message, hashlib.sha256).hexdigest()

    def _key(self) -> bytes:
        if not self._secret:
            proposal = secrets.token_urlsafe(32)
            self._secret = self._store.secret("signing", proposal).encode()
        return self._secret
