"""A real server in a thread of the test, on a free port of the loopback."""

import socket
import threading
from contextlib import contextmanager

import uvicorn


@contextmanager
def serving(app, **options):
    """`options` are uvicorn's."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(
            uvicorn.Config(app, **{"log_level": "error", "ws": "none", "lifespan": "off"} | options)
        )
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
