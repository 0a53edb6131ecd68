"""Every key of the farm, at hand: those of the settings, and a copy of those in the store.

The copy is renewed every `FRESH_S` by whoever asks then, and sooner for a key that is not in it, but
not for each wrong one. So a request costs no round trip, a new or revoked key is seen within seconds,
and an outage of the store harms nobody whose key was known before it.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Lock

from api.errors import CHALLENGE, Problem
from api.owner import ANONYMOUS, Owner, of_key
from shared.errors import StoreUnavailable
from shared.owners.given import KeyFile, of_variable
from shared.owners.keys import Key, digest
from shared.owners.port import KeyStore
from shared.settings import Settings
from shared.store.values import OwnerLimits

FRESH_S = 2.0
EAGER_S = 0.05  # for a key that is not in the copy
RETRY_S = 1.0  # after the store did not answer
STALE_S = 900.0  # so long a copy is believed while the store does not answer
USED_S = 300.0  # how exactly it is kept when a key was used last


@dataclass(slots=True)
class Copy:
    """The keys of the store as they were `age_s` ago."""

    clock: Callable[[], float] = time.monotonic
    keys: dict[str, Key] = field(default_factory=dict)  # by SHA-256
    version: str | None = None  # None: never read
    closed: bool = False  # there were keys once: were they all lost, nobody may come in
    failing: bool = False
    read_at: float = float("-inf")
    retry_at: float = float("-inf")

    @property
    def age_s(self) -> float:
        return self.clock() - self.read_at

    @property
    def is_believed(self) -> bool:
        return self.version is not None and (not self.failing or self.age_s < STALE_S)

    def needs(self, limit_s: float) -> bool:
        """Whether it is older than that, and the store may be asked."""
        return self.age_s >= limit_s and self.clock() >= self.retry_at

    def renew(self, store: KeyStore) -> None:
        try:
            found = store.read(self.version)
        except StoreUnavailable:
            self.failing, self.retry_at = True, self.clock() + RETRY_S
            return
        if found is not None:
            self.keys = {key.sha256: key for key in found.keys}
            self.closed = self.closed or bool(found.keys)
            self.version = found.version
        self.failing, self.read_at = False, self.clock()


class KeyRing:
    """Thread-safe. `clock` gives unix seconds. Raises SettingsError for bad keys in the settings."""

    def __init__(
        self, settings: Settings, store: KeyStore, clock: Callable[[], float] = time.time
    ) -> None:
        self._store = store
        self._now = clock
        self._open_to_all = settings.allow_open
        self._limits = OwnerLimits(
            settings.submits_per_min, settings.max_queued, settings.max_queued_gpu_s
        )
        given = of_variable(settings.api_keys.get_secret_value())
        self._given = {key.sha256: key for key in given}
        self._file = KeyFile(settings.api_keys_file) if settings.api_keys_file else None
        self._copy = Copy()
        self._lock = Lock()
        self._used: dict[str, float] = {}  # id -> when that was written down
        self._unsaid: dict[str, float] = {}

    @property
    def closed(self) -> bool:
        """Whether there are keys, as far as is known: else everybody is `anonymous`."""
        return bool(self._given) or self._file is not None or self._copy.closed

    @property
    def is_known(self) -> bool:
        """Whether `closed` is more than a guess."""
        return self.closed or self._copy.is_believed

    def is_at_hand(self, text: str | None) -> bool:
        """Whether `owner` answers without a word to the store."""
        if not text:
            return bool(self._given) or self._file is not None or not self._copy.needs(FRESH_S)
        sha256 = digest(text)
        if self._settled(sha256):
            return True
        return not self._copy.needs(FRESH_S if sha256 in self._copy.keys else EAGER_S)

    def owner(self, text: str | None, *, outward: bool) -> Owner:
        """`outward`: others than this machine may be asking.

        Raises Problem 401, and StoreUnavailable where only the store could tell.
        """
        if not self.is_at_hand(text):
            self.renew(wait=not text or digest(text) not in self._copy.keys)
        key = self._find(text) if text else None
        if key is None:
            return self._stranger(text, outward=outward)
        now = self._now()
        if not key.valid(now):
            why = "has expired" if key.revoked_at is None else "was revoked"
            raise Problem(401, "invalid_api_key", f"this key {why}", headers=CHALLENGE)
        if now - self._used.get(key.id, 0.0) > USED_S:
            self._unsaid[key.id] = self._used[key.id] = now
        return of_key(key, self._limits)

    def renew(self, *, wait: bool = True) -> None:
        """Bring the copy up to date. Without `wait`, unless somebody is just doing so."""
        if not self._lock.acquire(blocking=wait):
            return
        try:
            if self._copy.needs(EAGER_S):
                self._copy.renew(self._store)
                self._tell_use()
        finally:
            self._lock.release()

    def _tell_use(self) -> None:
        while self._unsaid and not self._copy.failing:
            key_id, at = self._unsaid.popitem()
            if not key_id.startswith("key_"):
                continue  # of the settings: nobody lists those
            try:
                self._store.used(key_id, at)
            except StoreUnavailable:
                return

    def _settled(self, sha256: str) -> Key | None:
        """A key of the settings, which needs no store."""
        return self._given.get(sha256) or (self._file.keys().get(sha256) if self._file else None)

    def _find(self, text: str) -> Key | None:
        """Raises StoreUnavailable for a key of a copy that is too old."""
        sha256 = digest(text)
        key = self._settled(sha256)
        if key is None and (key := self._copy.keys.get(sha256)) and not self._copy.is_believed:
            raise StoreUnavailable
        return key if key and hmac.compare_digest(key.sha256, sha256) else None

    def _stranger(self, text: str | None, *, outward: bool) -> Owner:
        """Whoever sent no key, or one that is not on the ring."""
        if not self.is_known:
            raise StoreUnavailable
        if not self.closed:
            if self._open_to_all or not outward:
                return ANONYMOUS
            detail = (
                "this farm has no keys and answers this machine only; its operator can add some"
            )
            raise Problem(401, "missing_api_key", detail, headers=CHALLENGE)
        if not text:
            detail = "send a key: `Authorization: Bearer KEY`"
            raise Problem(401, "missing_api_key", detail, headers=CHALLENGE)
        if self._copy.failing or self._copy.version is None:
            raise StoreUnavailable  # it may know this one
        raise Problem(401, "invalid_api_key", "this key is not known", headers=CHALLENGE)
