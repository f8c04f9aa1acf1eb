"""A server of files on this machine that can misbehave as the web does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread


@dataclass
class Host:
    """What a local server sends, and what it was asked.

    Attributes:
        address: Where it listens.
        files: Bodies by path; every other path is 404.
        breaks_after: Bytes after which it hangs up, for each of the coming answers by path.
        busy: How many of the coming answers, by path, are 503.
        ranges: Whether it knows byte ranges.
        asked: (path, Range header) of every request.
    """

    address: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    breaks_after: dict[str, list[int]] = field(default_factory=dict)
    busy: dict[str, int] = field(default_factory=dict)
    ranges: bool = True
    asked: list[tuple[str, str | None]] = field(default_factory=list)


def _handler(host: Host) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *unused: object) -> None:
            pass

        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            host.asked.append((self.path, wanted))
            if host.busy.get(self.path, 0) > 0:
                host.busy[self.path] -= 1
                self.send_error(503)
            elif self.path not in host.files:
                self.send_error(404)
            else:
                self._send(host.files[self.path], wanted if host.ranges else None)

        def _send(self, body: bytes, wanted: str | None) -> None:
            start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
            if start >= len(body) > 0 and wanted:
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(body)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206 if wanted else 200)
            self.send_header("Content-Length", str(len(body) - start))
            self.end_headers()
            cuts = host.breaks_after.get(self.path, [])
            end = start + cuts.pop(0) if cuts else len(body)
            self.wfile.write(body[start:end])

    return Handler


@contextmanager
def serving() -> Iterator[Host]:
    """A server while the context lasts."""
    made = Host()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(made))
    made.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    server.shutdown()
    thread.join()
    server.server_close()
