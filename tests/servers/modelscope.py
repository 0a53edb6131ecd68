"""A model service on loopback that speaks the two routes of ModelScope's file API."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from tests.servers.hub import send

REPO = "farm/tiny"


class FakeModelScope:
    """Serves one folder as the repository `farm/tiny`; `asked` lists the files it was asked for."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.folder = folder
        self.elsewhere = ""  # another service, which hands out the files themselves
        self.status = 200  # another one: the answer to everything
        self.failures = 0  # so many 503 first
        self.cut: dict[str, int] = {}
        self.rotten: set[str] = set()  # files that arrive as others than they are listed as
        self.extra: list[dict[str, object]] = []  # listed beside what there is
        self.ranges: list[str] = []
        self.asked: list[str] = []
        self.tokens: set[str | None] = set()

    def answer(self, url: str) -> tuple[int, bytes, str]:
        """Status, body, and the file that it is."""
        path, query = urlsplit(url).path, parse_qs(urlsplit(url).query)
        if self.failures:
            self.failures -= 1
            return 503, b"{}", ""
        if self.status != 200:
            return self.status, b'{"Success": false}', ""
        if not path.startswith(f"/api/v1/models/{REPO}/repo") or query["Revision"] != ["master"]:
            return 404, b'{"Success": false}', ""
        if path.endswith("/files"):
            files = [self._listed(f) for f in sorted(self.folder.rglob("*"))] + self.extra
            return 200, json.dumps({"Code": 200, "Data": {"Files": files}}).encode(), ""
        (name,) = query["FilePath"]
        self.asked.append(name)
        body = (self.folder / name).read_bytes()
        return 200, body[::-1] if name in self.rotten else body, name

    def _listed(self, file: Path) -> dict[str, object]:
        path = file.relative_to(self.folder).as_posix()
        if file.is_dir():
            return {"Path": path, "Type": "tree", "Size": 0, "Sha256": ""}
        data = file.read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        return {"Path": path, "Type": "blob", "Size": len(data), "Sha256": digest}


@contextmanager
def fake_modelscope(folder: Path) -> Iterator[FakeModelScope]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            service.tokens.add(self.headers["Authorization"])
            status, body, name = service.answer(self.path)
            if service.elsewhere and name:
                where = {"Location": service.elsewhere + self.path}
                send(self, service, 302, where, b"", name)
            else:
                send(self, service, status, {}, body, name)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    service = FakeModelScope(f"http://127.0.0.1:{server.server_port}", folder)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield service
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
