"""An OpenTelemetry collector's HTTP side: takes exports in OTLP's JSON form and keeps the spans."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Collector:
    """A context manager. `status` is what it answers; spans are kept only with 200."""

    port: int = 0
    status: int = 200
    spans: list[dict[str, Any]] = field(default_factory=list)
    resources: list[dict[str, Any]] = field(default_factory=list)
    asked: list[dict[str, str]] = field(default_factory=list)
    """Headers of every export, names in lower case."""

    def __enter__(self) -> Collector:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                assert self.path == "/v1/traces"
                outer.take(body, {name.lower(): value for name, value in self.headers.items()})
                self.send_response(outer.status)
                self.send_header("content-length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def take(self, body: dict[str, Any], headers: dict[str, str]) -> None:
        self.asked.append(headers)
        if self.status != 200:
            return
        for resource in body["resourceSpans"]:
            self.resources.append(attributes(resource["resource"]))
            for scope in resource["scopeSpans"]:
                self.spans += scope["spans"]

    def span(self, request_id: str) -> dict[str, Any] | None:
        """The span of a request."""
        found = [s for s in self.spans if attributes(s).get("joulegate.request.id") == request_id]
        assert len(found) <= 1, found
        return found[0] if found else None


def attributes(of: dict[str, Any]) -> dict[str, Any]:
    """The attributes of a span or a resource as plain values."""
    plain: dict[str, Any] = {}
    for attribute in of["attributes"]:
        ((kind, value),) = attribute["value"].items()
        plain[attribute["key"]] = int(value) if kind == "intValue" else value
    return plain
