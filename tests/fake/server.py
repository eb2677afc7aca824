"""A web server on this machine that serves files well or badly, and remembers what was asked."""

import contextlib
import http.server
import re
import threading
import time
from dataclasses import dataclass, field


@dataclass
class Resource:
    """What one address answers."""

    body: bytes = b""
    etag: str | None = '"one"'
    modified: str | None = None
    ranges: bool = True
    content_type: str = "application/octet-stream"
    status: int = 200
    redirect: str | None = None
    cuts: list[int] = field(default_factory=list)
    """Bytes to send before the connection breaks; one entry per request, then whole answers."""
    failures: list[int] = field(default_factory=list)
    """Status codes of the first requests."""
    length: bool = True
    """Whether the length is told; else the answer comes in chunks."""
    wrong_range: bool = False
    """Answer a range with another one."""
    hold_after: int | None = None
    """Bytes after which the first answer waits for `FakeServer.released`."""
    stall_seconds: float = 0.0
    """Silence before the answer."""


class FakeServer:
    """Serves `resources` (path -> Resource); `requests` lists (path, headers)."""

    def __init__(self):
        self.resources = {}
        self.requests = []
        self.released = threading.Event()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args):
                pass

            def do_GET(self):
                outer.requests.append((self.path, dict(self.headers)))
                with contextlib.suppress(ConnectionError):
                    outer.answer(self)

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        )
        self._thread.start()
        self.base = f"http://127.0.0.1:{self._server.server_address[1]}"

    def add(self, path, body=b"", **settings):
        """Serves a body; returns its address."""
        self.resources[path] = Resource(body=body, **settings)
        return self.base + path

    def close(self):
        self.released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def ranges(self):
        """What was asked for, per request: the Range header or None."""
        return [headers.get("Range") for _, headers in self.requests]

    def answer(self, handler):
        handler.close_connection = True
        resource = self.resources.get(handler.path)
        if resource is None:
            self._status(handler, 404)
            return
        time.sleep(resource.stall_seconds)
        if resource.failures:
            self._status(handler, resource.failures.pop(0))
        elif resource.redirect is not None:
            handler.send_response(302)
            handler.send_header("Location", resource.redirect)
            handler.send_header("Content-Length", "0")
            handler.end_headers()
        elif resource.status != 200:
            self._status(handler, resource.status)
        else:
            self._file(handler, resource)

    def _status(self, handler, code):
        handler.send_response(code)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    def _file(self, handler, resource):
        start = self._start(handler, resource)
        body = resource.body
        if start is not None and start >= len(body):
            self._status(handler, 416)
            return
        handler.send_response(200 if start is None else 206)
        if start is not None:
            told = start + 1 if resource.wrong_range else start
            handler.send_header("Content-Range", f"bytes {told}-{len(body) - 1}/{len(body)}")
        payload = body[start or 0 :]
        if resource.etag:
            handler.send_header("ETag", resource.etag)
        if resource.modified:
            handler.send_header("Last-Modified", resource.modified)
        handler.send_header("Content-Type", resource.content_type)
        cut = resource.cuts.pop(0) if resource.cuts else None
        if resource.length:
            handler.send_header("Content-Length", str(len(payload)))
            handler.end_headers()
            held = resource.hold_after
            if held is not None:
                resource.hold_after = None
                handler.wfile.write(payload[:held])
                self.released.wait(30)
                payload = payload[held:]
            handler.wfile.write(payload[:cut])
        else:
            handler.send_header("Transfer-Encoding", "chunked")
            handler.end_headers()
            piece = payload[:cut]
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            if cut is None:
                handler.wfile.write(b"0\r\n\r\n")
        handler.wfile.flush()

    def _start(self, handler, resource):
        asked = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
        if asked is None or not resource.ranges:
            return None
        condition = handler.headers.get("If-Range")
        if condition is not None and condition not in (resource.etag, resource.modified):
            return None
        return int(asked[1])


@contextlib.contextmanager
def serving():
    """A running server, stopped at the end."""
    server = FakeServer()
    try:
        yield server
    finally:
        server.close()
