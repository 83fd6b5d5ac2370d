"""The endpoint: `/metrics`, `/livez` and `/readyz` of one worker over HTTP, from threads of its own.

It reads what the loop has written down, and asks nothing of it: a scrape that hangs, or comes too often, is waited for
by nobody else.
"""

import socket
import socketserver
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, TypeAlias

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder

from projector import health
from projector.errors import Misconfigured
from projector.exposition import Exposition
from projector.health import Signs
from projector.lag import Lag, watch
from projector.metrics import Metrics

if TYPE_CHECKING:
    from projector.config import Config

CLIENT_S = 10.0
CLOSE_S = 2.0
Answers: TypeAlias = Callable[[str, str], tuple[int, str, bytes] | None]
PLAIN = "text/plain; charset=utf-8"


class Endpoint:
    """Serves what `metrics` says from its construction on. Raises `Misconfigured` where it cannot listen there."""

    def __init__(self, metrics: Metrics, address: str, port: int) -> None:
        self._metrics = metrics
        self._lag = Lag(metrics)
        self._settle_s = 0.0
        self._stopped = threading.Event()
        self._process = CollectorRegistry()
        ProcessCollector(registry=self._process)
        self._server = _listening(address, port, partial(_Handler, self.answer))
        self._threads = [threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True)]
        self._threads[0].start()

    def watch(self, config: "Config", settle_s: float) -> None:
        """Log and store are there: see where the topic ends; a batch settles for `settle_s` before it is committed."""
        from projector.backends import open_log

        self._settle_s = settle_s
        arguments = (self._lag, lambda: open_log(config), config.input_topic, self._stopped)
        self._threads.append(threading.Thread(target=watch, args=arguments, name="lag", daemon=True))
        self._threads[-1].start()

    def answer(self, path: str, accept: str) -> tuple[int, str, bytes] | None:
        """Status, content type and body; None: there is no such page."""
        match path:
            case "/metrics":
                encode, content_type = choose_encoder(accept)
                return HTTPStatus.OK, content_type, encode(self._registry())
            case "/livez":
                return _told(self._stuck())
            case "/readyz":
                return _told(health.unready(self._signs()))
        return None

    def close(self) -> None:
        """Serve no more."""
        self._stopped.set()
        self._server.shutdown()
        self._server.server_close()
        for thread in self._threads:
            thread.join(CLOSE_S)

    def _registry(self) -> CollectorRegistry:
        registry = CollectorRegistry()
        registry.register(self._process)
        stuck = self._stuck() is not None
        registry.register(Exposition(self._metrics, self._lag, stuck, time.monotonic(), time.time()))
        return registry

    def _stuck(self) -> str | None:
        return health.stuck(self._signs(), health.STUCK_S + self._settle_s)

    def _signs(self) -> Signs:
        return signs(self._metrics, self._lag, time.monotonic())


def signs(metrics: Metrics, lag: Lag, now: float) -> Signs:
    """What a worker shows `now`, in seconds of `time.monotonic`."""
    since = lag.behind_since
    return Signs(
        unturned_s=None if metrics.turned_at is None else now - metrics.turned_at,
        lag=lag.last(),
        standstill_s=0.0 if since is None else now - max(since, metrics.advanced_at),
        partitions=len(metrics.offsets),
    )


def check_free(address: str, port: int) -> None:
    """Whether one could listen there now. Raises `Misconfigured`."""
    _listening(address, port, BaseHTTPRequestHandler).server_close()


def _told(trouble: str | None) -> tuple[int, str, bytes]:
    status = HTTPStatus.OK if trouble is None else HTTPStatus.SERVICE_UNAVAILABLE
    return status, PLAIN, f"{trouble or 'ok'}\n".encode()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def server_bind(self) -> None:
        """Without asking a name server for our own name, as `HTTPServer` does."""
        socketserver.TCPServer.server_bind(self)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away before it has its answer is no news; anything else is a fault of ours."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Handler(BaseHTTPRequestHandler):
    timeout = CLIENT_S

    def __init__(self, answer: Answers, *connection: Any) -> None:
        self._answer = answer
        super().__init__(*connection)

    def do_GET(self) -> None:
        """Answer one request."""
        found = self._answer(self.path.partition("?")[0], self.headers.get("Accept", ""))
        if found is None:
            self.send_error(HTTPStatus.NOT_FOUND, "see /metrics, /livez, /readyz")
            return
        status, content_type, body = found
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Probes come every few seconds: nobody wants to read of each."""


def _listening(address: str, port: int, handler: Callable[..., BaseHTTPRequestHandler]) -> ThreadingHTTPServer:
    try:
        return (_Server6 if ":" in address else _Server)((address, port), handler)
    except OSError as error:
        raise Misconfigured(
            f"metrics cannot be served at {address}, port {port}: {error.strerror or error}: give another "
            "--metrics-port or --metrics-address, or stop what listens there"
        ) from error
