"""A web server on this machine that sends parts of files, and can do everything wrong that servers do."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Server:
    """What it has, how it behaves, and what it was asked for."""

    files: dict[str, bytes]  # by their path, without the first slash
    fault: str = ""  # see ``_Handler``
    after: int = 0  # requests that are answered well before
    address: str = ""
    sent: int = 0  # bytes of bodies
    asked: list[tuple[str, str, str]] = field(default_factory=list)  # method, path, range

    def url(self, name: str) -> str:
        return f"{self.address}/{name}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # a head and a body that wait for each other cost 40 ms
    mine: Server

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        mine, path = self.mine, self.path.partition("?")[0].lstrip("/")
        mine.asked.append((self.command, self.path, self.headers.get("Range", "")))
        fault = mine.fault if len(mine.asked) > mine.after else ""
        if fault.isdigit():
            self._send(int(fault), b"<html>it went wrong</html>", {}, body=body)
        elif path in mine.files:
            self._file(mine.files[path], fault, body=body)
        elif path and not path.endswith("/") and any(name.startswith(f"{path}/") for name in mine.files):
            self._send(301, b"", {"Location": f"/{path}/"}, body=body)
        elif below := sorted({name[len(path) :].partition("/") for name in mine.files if name.startswith(path)}):
            links = "".join(f'<a href="{first}{slash}">{first}</a>' for first, slash, _ in below)
            hostile = '<a href="../outside.npy">up</a><a href="http://elsewhere.example/x.npy">away</a>'
            self._send(200, f"<html>{links}{hostile}</html>".encode(), {"Content-Type": "text/html"}, body=body)
        else:
            self._send(404, b"", {}, body=body)

    def _file(self, data: bytes, fault: str, *, body: bool) -> None:
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        headers = {"ETag": f'"{len(self.mine.asked) if fault == "changing" else 0}"'}
        if fault == "silent":
            time.sleep(30)
        if not found or fault == "whole":
            self._send(200, data, headers, body=body)
            return
        start, end = int(found[1]), min(int(found[2]) + 1, len(data))
        if start >= len(data):
            self._send(416, b"", {"Content-Range": f"bytes */{len(data)}"}, body=body)
            return
        part, total = data[start:end], len(data)
        if fault == "slow":
            time.sleep(0.05)
        if fault == "shorter":
            part = part[: len(part) // 2]
        if fault == "longer":
            part += b"more"
        if fault == "grown":
            total += 1
        if fault == "elsewhere":
            start, end = start + 1, end + 1
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{total}"
        self._send(206, part, headers, body=body, cut=fault == "cut")

    def _send(self, status: int, data: bytes, headers: dict[str, str], *, body: bool, cut: bool = False) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            data = data[: len(data) // 2] if cut else data
            self.mine.sent += len(data)
            self.wfile.write(data)
        if cut:
            self.close_connection = True


@contextmanager
def serving(files: dict[str, bytes], **how: Any) -> Iterator[Server]:
    """A server of some files, until it is left."""
    mine = Server(files, **how)
    handler = type("Handler", (_Handler,), {"mine": mine})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # of a client that went away
    mine.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield mine
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
