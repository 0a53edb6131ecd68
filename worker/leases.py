"""The worker's end of the keeper: what is held, and whether it may still be worked on."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import time
from contextlib import suppress
from threading import Event, Lock, Thread
from typing import Any

from shared.cgroup import oom_kills
from shared.errors import Canceled, LeaseLost
from shared.logs import event
from shared.store.values import (
    Cause,
    Claim,
)

log = logging.getLogger("farm.worker")
PROGRESS_S = 0.1  # a keeper that waits for Redis reads nothing: never fill its pipe
AGAIN_S = 0.5  # between attempts to start a keeper


class Lease:
    """One held render. `check` is called between steps."""

    def __init__(self, leases: Leases, claim: Claim) -> None:
        self._leases = leases
        self.render_id = claim.render_id
        self.token = claim.token
        self.canceled = Event()
        self.lost = Event()
        self._told_at = float("-inf")

    def check(self) -> None:
        """Raises LeaseLost, Canceled."""
        if self.lost.is_set():
            raise LeaseLost
        if self.canceled.is_set():
            raise Canceled

    def progress(self, step: int) -> None:
        if time.monotonic() - self._told_at < PROGRESS_S:
            return
        self._told_at = time.monotonic()
        self._leases.tell({"step": self.token, "n": step})

    def drop(self) -> None:
        self._leases.drop(self)


class Leases:
    """Starts the keeper process, tells it what is held, and starts another if it dies.

    `config` is the keeper's first line. Closing without dropping gives back what is still held.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        self._config = config
        self._lock = Lock()
        self._held: dict[str, Lease] = {}
        self._claiming: str | None = None
        self._closed = False
        self._process = self._spawn()
        self._listener = Thread(target=self._listen, name="keeper", daemon=True)
        self._listener.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def expect(self, token: str | None) -> None:
        """A claim with this token will be sent: if this process dies, the keeper revokes it.

        None: it got nothing.
        """
        with self._lock:
            self._claiming = token
        self.tell({"claim": token})

    def hold(self, claim: Claim) -> Lease:
        lease = Lease(self, claim)
        with self._lock:
            self._held[lease.token] = lease
            self._claiming = None
        self.tell({"hold": lease.token, "render": lease.render_id})
        return lease

    def drop(self, lease: Lease) -> None:
        with self._lock:
            self._held.pop(lease.token, None)
        self.tell({"drop": lease.token})

    def tell(self, line: dict[str, Any]) -> None:
        with self._lock:
            self._write(self._process, line)

    def close(self, cause: Cause | None = None) -> None:
        """The keeper gives back what is still held, and ends; `cause` if this is no leave in order."""
        self.say_goodbye(cause)
        with self._lock:
            self._closed = True
            self._hang_up(self._process)
        self._listener.join()

    def say_goodbye(self, cause: Cause | None) -> None:
        """Tell the keeper why its pipe will close; without a word it takes it for a death."""
        self.tell({"bye": cause})

    def _spawn(self) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "worker.keeper"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # a Ctrl-C at the terminal is not for the keeper
        )
        # Counted here: the kernel may kill this process before the keeper can count.
        self._write(process, {**self._config, "oom_kills": oom_kills()})
        return process

    @staticmethod
    def _write(process: subprocess.Popen[str], line: dict[str, Any]) -> None:
        if process.stdin is None or process.stdin.closed:
            return
        with suppress(BrokenPipeError):  # it died: the listener starts another and tells it all
            process.stdin.write(json.dumps(line) + "\n")
            process.stdin.flush()

    @staticmethod
    def _hang_up(process: subprocess.Popen[str]) -> None:
        if process.stdin:
            with suppress(BrokenPipeError):  # it died before it read everything
                process.stdin.close()

    def _listen(self) -> None:
        while True:
            assert self._process.stdout is not None
            for text in self._process.stdout:
                self._hear(json.loads(text))
            self._process.wait()
            self._process.stdout.close()
            if not self._replace():
                return

    def _replace(self) -> bool:
        """Start another keeper and tell it what is held. False: it ended as it was told to."""
        with self._lock:
            if self._closed:
                return False
            self._hang_up(self._process)
            event(log, "keeper_died", logging.WARNING, exit_code=self._process.returncode)
        while (started := self._started()) is None:
            time.sleep(AGAIN_S)
        return started

    def _started(self) -> bool | None:
        """None: not yet. False: nobody needs it any more."""
        with self._lock:
            if self._closed:
                return False
            try:
                self._process = self._spawn()
            except OSError as error:  # no memory left, which may have killed the last one
                event(log, "no_keeper", logging.WARNING, reason=str(error))
                return None
            for lease in self._held.values():
                line = {"hold": lease.token, "render": lease.render_id}
                self._write(self._process, line)
            if self._claiming:
                self._write(self._process, {"claim": self._claiming})
            return True

    def _hear(self, line: dict[str, str]) -> None:
        for standing, token in line.items():
            with self._lock:
                lease = self._held.get(token)
            if lease:
                (lease.canceled if standing == "cancel" else lease.lost).set()
