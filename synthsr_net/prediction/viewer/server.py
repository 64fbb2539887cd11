"""A server of a few contents in memory to the browser of the same machine.

It listens on the loopback address alone, at a port and below a path that nobody can guess, answers
GET and HEAD for the names that it was given, and reads no file. It ends a while after its last
page was closed.
"""

from __future__ import annotations

import secrets
import socketserver
import sys
import threading
import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

LOOPBACK = "127.0.0.1"
ALIVE = "alive"
"""Name of a stream without an end, which each page keeps open: when it breaks, the page is gone."""
GRACE_SECONDS = 15.0
"""Time from the end of the last page to the end of the server: a page may be loaded again."""

_BEAT_SECONDS, _WAIT_SECONDS, _REQUEST_SECONDS = 1.0, 0.25, 30.0
_HOSTS = (LOOPBACK, "localhost")
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline';"
        " connect-src 'self' data: blob:; img-src 'self' data: blob:; worker-src blob:;"
        " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Served(NamedTuple):
    """A content.

    Attributes:
        kind: Its media type.
        content: Its bytes.
    """

    kind: str
    content: bytes


class LocalServer(ThreadingHTTPServer):
    """Serves contents to this machine, until `run` is over.

    Args:
        contents: Contents by names; that of the page is empty.
        grace_seconds: See `GRACE_SECONDS`.
    """

    daemon_threads = True
    timeout = _WAIT_SECONDS

    def __init__(
        self, contents: Mapping[str, Served], *, grace_seconds: float = GRACE_SECONDS
    ) -> None:
        self.contents, self.grace_seconds = dict(contents), grace_seconds
        self.token = secrets.token_urlsafe(24)
        self._lock, self._pages, self._left = threading.Lock(), 0, float("inf")
        super().__init__((LOOPBACK, 0), _Handler)

    def server_bind(self) -> None:
        """Bind, without asking name servers for the name of this machine as `HTTPServer` does."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = LOOPBACK, int(self.server_address[1])

    @property
    def address(self) -> str:
        """Address of the page."""
        return f"http://{LOOPBACK}:{self.server_port}/{self.token}/"

    def run(self) -> None:
        """Answer until the last page has been closed for a while, once one was opened."""
        with self:
            while not self.is_over():
                self.handle_request()

    def is_over(self) -> bool:
        """Whether pages were opened, and all of them closed for a while."""
        with self._lock:
            return not self._pages and time.monotonic() > self._left + self.grace_seconds

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of a browser that left in the middle of an answer."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]

    def page_opened(self) -> None:
        """Count a page that is open."""
        with self._lock:
            self._pages += 1

    def page_closed(self) -> None:
        """Count a page that is gone."""
        with self._lock:
            self._pages -= 1
            self._left = time.monotonic()

    def content_of(self, path: str) -> Served | None:
        """What a path of a request names; None for all but the names below the token."""
        token, slash, name = path.removeprefix("/").partition("/")
        allowed = secrets.compare_digest(token.encode(), self.token.encode())
        if not (allowed and slash):
            return None
        return Served("text/event-stream", b"") if name == ALIVE else self.contents.get(name)


class _Handler(BaseHTTPRequestHandler):
    """Answers to one request."""

    server: LocalServer
    server_version, sys_version = "synthsr", ""
    timeout = _REQUEST_SECONDS

    def do_GET(self) -> None:
        found = self._begin()
        if found is None:
            return
        if found.kind == "text/event-stream":
            self._stay()
        else:
            self.wfile.write(found.content)

    def do_HEAD(self) -> None:
        self._begin()

    def _begin(self) -> Served | None:
        """Send the head of an answer; None if the request names nothing, or comes from elsewhere.

        A page of another server that a name leads to this address asks for another host.
        """
        host = self.headers.get("Host", "").rpartition(":")[0]
        found = self.server.content_of(self.path) if host in _HOSTS else None
        self.send_response(404 if found is None else 200)
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        if found is not None:
            self.send_header("Content-Type", found.kind)
        if found is None or found.kind != "text/event-stream":
            self.send_header("Content-Length", str(0 if found is None else len(found.content)))
        self.end_headers()
        return found

    def _stay(self) -> None:
        """Send a sign of life now and then, until the page is gone."""
        self.server.page_opened()
        try:
            while True:
                self.wfile.write(b":\n\n")
                self.wfile.flush()
                time.sleep(_BEAT_SECONDS)
        except OSError:
            pass
        finally:
            self.server.page_closed()

    def log_message(self, format: str, *args: object) -> None:
        """Write nothing to the terminal."""
