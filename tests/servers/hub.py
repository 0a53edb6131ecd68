"""A model hub on loopback that speaks as much of Hugging Face's HTTP as a download needs."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Protocol

COMMIT = "c0ffee" + "0" * 34
REFUSALS = {
    "gated": (403, "GatedRepo"),
    "private": (401, "RepoNotFound"),
    "forbidden": (403, ""),
    "absent": (404, "RepoNotFound"),
    "down": (500, ""),
}


class FakeHub:
    """Serves one folder as the repository `farm/tiny`; `asked` lists the paths it was asked for."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.folder = folder
        self.elsewhere = ""  # another hub, where the files themselves lie
        self.refuse: str | None = None  # a key of REFUSALS
        self.cut: dict[str, int] = {}  # bytes of a file after which the connection ends, once
        self.ranges: list[str] = []
        self.asked: list[str] = []
        self.tokens: set[str | None] = set()

    @property
    def fetched(self) -> set[str]:
        marker = f"/resolve/{COMMIT}/"
        return {path.split(marker)[1] for path in self.asked if marker in path}

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        self.asked.append(path)
        if self.refuse:
            status, code = REFUSALS[self.refuse]
            return status, {"X-Error-Code": code}, b"{}"
        if "/revision/" in path:
            if not path.endswith(("/main", COMMIT)):
                return 404, {"X-Error-Code": "RevisionNotFound"}, b"{}"
            return 200, {}, json.dumps({"id": "farm/tiny", "sha": COMMIT}).encode()
        if "/tree/" in path:
            files = [f for f in sorted(self.folder.rglob("*")) if f.is_file()]
            return 200, {}, json.dumps([self._listed(file) for file in files]).encode()
        data = (self.folder / path.split(f"/resolve/{COMMIT}/")[1]).read_bytes()
        said = {"ETag": f'"{_oid(data)}"', "X-Repo-Commit": COMMIT}
        if self.elsewhere:
            linked = {"X-Linked-Size": str(len(data)), "X-Linked-Etag": said["ETag"]}
            return 302, {**said, **linked, "Location": self.elsewhere + path}, b""
        return 200, said, data

    def _listed(self, file: Path) -> dict[str, object]:
        data = file.read_bytes()
        path = file.relative_to(self.folder).as_posix()
        return {"type": "file", "path": path, "size": len(data), "oid": _oid(data)}


class Cutting(Protocol):
    cut: dict[str, int]
    ranges: list[str]


def send(
    to: BaseHTTPRequestHandler,
    server: Cutting,
    status: int,
    headers: dict[str, str],
    body: bytes,
    name: str,
) -> None:
    """An answer that honours Range, and ends early where `server.cut` says so of the file `name`."""
    wanted = to.headers["Range"]
    whole = len(body)
    if wanted and status == 200:
        server.ranges.append(wanted)
        first = int(wanted.removeprefix("bytes=").split("-")[0])
        status, body = 206, body[first:]
        headers = {**headers, "Content-Range": f"bytes {first}-{whole - 1}/{whole}"}
    to.send_response(status)
    for key, value in {**headers, "Content-Length": str(len(body))}.items():
        to.send_header(key, value)
    to.end_headers()
    if to.command == "GET":
        to.wfile.write(body[: server.cut.pop(name, whole)])


def _oid(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


@contextmanager
def fake_hub(folder: Path) -> Iterator[FakeHub]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            hub.tokens.add(self.headers["Authorization"])
            status, headers, body = hub.answer(self.path.split("?")[0])
            send(self, hub, status, headers, body, self.path.split("/")[-1])

        def do_HEAD(self) -> None:
            self.do_GET()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub = FakeHub(f"http://127.0.0.1:{server.server_port}", folder)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
