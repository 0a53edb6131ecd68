"""A webhook receiver: a real HTTP(S) server on loopback that remembers what it was sent."""

from __future__ import annotations

import json
import shutil
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any

from standardwebhooks import Webhook

Answer = Callable[["Receiver"], int]


@dataclass
class Receiver:
    """`answer` gives the status of each request; `hold` keeps every answer back until it is set."""

    answer: Answer = lambda receiver: 204
    hold: Event = field(default_factory=Event)
    got: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    url: str = ""
    location: str = ""  # of redirects

    def __post_init__(self) -> None:
        self.hold.set()

    @property
    def ids(self) -> list[str]:
        return [headers["webhook-id"] for headers, _ in self.got]

    @property
    def events(self) -> list[str]:
        return [json.loads(body)["type"] for _, body in self.got]

    def verified(self, secret: str) -> list[dict[str, Any]]:
        """Every message, as the reference library reads it. Raises WebhookVerificationError."""
        return [Webhook(secret).verify(body, headers) for headers, body in self.got]


@contextmanager
def receiving(answer: Answer = lambda receiver: 204, *, cert: Path | None = None, port: int = 0,
              host: str = "127.0.0.1") -> Iterator[Receiver]:  # fmt: skip
    """`cert`: a PEM of key and certificate, for https; the URL then has the name `localhost`."""
    receiver = Receiver(answer)
    server = _Server((host, port), _handler(receiver))
    if cert:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cert)
        server.socket = context.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
    scheme, name = ("https", "localhost") if cert else ("http", host)
    receiver.url = f"{scheme}://{name}:{server.server_port}/hook?a=b"
    thread = Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        receiver.hold.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads, block_on_close = True, False

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # a handshake that the client broke off


def _handler(receiver: Receiver) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            receiver.got.append(({k.lower(): v for k, v in self.headers.items()}, body))
            status = receiver.answer(receiver)
            receiver.hold.wait(60)
            self.send_response(status)
            if receiver.location:
                self.send_header("Location", receiver.location)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler


def certificate(folder: Path, name: str = "localhost") -> Path:
    """A PEM with a key and the certificate of a host that vouches for itself."""
    openssl = shutil.which("openssl")
    assert openssl
    file = folder / f"{name}.pem"
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    names = ("-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}")
    files = ("-keyout", f"{file}.key", "-out", str(file), "-days", "2")
    subprocess.run([openssl, "req", "-x509", *key, *names, *files], check=True, capture_output=True)
    file.write_text(file.read_text() + Path(f"{file}.key").read_text())
    return file


@contextmanager
def dripping(host: str = "127.0.0.1") -> Iterator[str]:
    """The URL of a server that sends one byte of an answer every 50 ms, for ever."""
    done = Event()
    server = socket.create_server((host, 0))

    def serve() -> None:
        peer, _ = server.accept()
        with peer, suppress(OSError):
            while not done.wait(0.05):
                peer.send(b"H")

    thread = Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://{host}:{server.getsockname()[1]}/"
    finally:
        done.set()
        thread.join(5)
        server.close()
