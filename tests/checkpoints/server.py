"""A web server on this machine that can do what real ones do to a download."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Served:
    """A file, and how it is served.

    Attributes:
        content: the bytes.
        etag: as it stands in the header; none where empty.
        ranges: whether a part can be asked for.
        checks_etag: whether If-Range is looked at, as it should be.
        breaks: after how many bytes of their answers the coming connections break.
        answers: status codes of the coming answers, instead of the file.
        length: how the length is told: by 'header', 'chunked', or not at all ('').
        kind: the Content-Type.
        gate: waited for after half of the content.
        requests: the headers of each request so far.
        sent: bytes of content so far.
    """

    content: bytes
    etag: str = '"one"'
    ranges: bool = True
    checks_etag: bool = True
    breaks: list[int] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)
    length: str = 'header'
    kind: str = 'application/octet-stream'
    gate: threading.Event | None = None
    requests: list[dict[str, str]] = field(default_factory=list)
    sent: int = 0


class _Handler(BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'

    def do_GET(self) -> None:
        file: Served | None = self.server.files.get(self.path)
        if file is None:
            return self.send_error(404)
        file.requests.append(dict(self.headers))
        if file.answers:
            return self.send_error(file.answers.pop(0))
        begin = 0
        wanted = re.fullmatch(r'bytes=(\d+)-', self.headers.get('Range', ''))
        if wanted and file.ranges and (self.headers.get('If-Range') == file.etag or not file.checks_etag):
            begin = int(wanted[1])
            if begin >= len(file.content):
                return self.send_error(416)
        body = file.content[begin:]
        stop = file.breaks.pop(0) if file.breaks else None
        self.send_response(206 if begin else 200)
        if begin:
            self.send_header('Content-Range', f'bytes {begin}-{len(file.content) - 1}/{len(file.content)}')
        if file.etag:
            self.send_header('ETag', file.etag)
        if file.length == 'header':
            self.send_header('Content-Length', str(len(body)))
        elif file.length == 'chunked':
            self.send_header('Transfer-Encoding', 'chunked')
        self.send_header('Content-Type', file.kind)
        self.send_header('Connection', 'close')
        self.end_headers()
        self.close_connection = True
        half = len(body) // 2
        for part in (body[:half], body[half:]) if stop is None else (body[:stop],):
            self.wfile.write(b'%x\r\n%s\r\n' % (len(part), part) if file.length == 'chunked' else part)
            file.sent += len(part)
            if file.gate:
                file.gate.wait(30)
        if file.length == 'chunked' and stop is None:
            self.wfile.write(b'0\r\n\r\n')

    def log_message(self, *args: object) -> None:
        pass


class _Quiet(ThreadingHTTPServer):
    def handle_error(self, *args: object) -> None:
        pass  # the client has hung up, as some tests want


class Server:
    """The server and its address."""

    def __init__(self) -> None:
        self._server = _Quiet(('127.0.0.1', 0), _Handler)
        self._server.files = {}
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def serve(self, name: str, content: bytes, **how: object) -> tuple[str, Served]:
        """Serve ``content`` as ``name``; return its URL and the entry."""
        self._server.files[f'/{name}'] = file = Served(content, **how)
        return f'http://127.0.0.1:{self._server.server_port}/{name}', file

    def stop(self) -> None:
        """Take it off the net."""
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def running() -> Iterator[Server]:
    """A server, for as long as it is needed."""
    server = Server()
    try:
        yield server
    finally:
        server.stop()
