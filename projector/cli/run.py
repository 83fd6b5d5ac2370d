"""`projector run`: one worker, or several under a supervisor."""

import gc
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from typing import TYPE_CHECKING, Annotated

import typer

from projector.cli.app import ConfigFile, Settings, app, configured
from projector.errors import ProjectorError, Retryable

if TYPE_CHECKING:
    from projector.config import Config
    from projector.generation import Generation
    from projector.log import Log
    from projector.metrics import Metrics
    from projector.preflight import Cleared
    from projector.store import Store

WATCHDOG_S = 50.0
REPORT_S = 10.0
COLLECT_S = 60.0
SUPERVISED_PROGRESS_S = 1.0
logger = logging.getLogger(__name__)


class LogFormat(Enum):
    """How log lines are written."""

    TEXT = "text"
    JSON = "json"


class _Stops:
    """Counts SIGTERM and SIGINT. The first asks for an orderly stop."""

    def __init__(self, end_at_second: bool) -> None:
        self.count = 0
        self._end_at_second = end_at_second
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._received)

    def _received(self, number: int, _frame: object) -> None:
        self.count += 1
        if self._end_at_second and self.count > 1:
            # Nothing is lost: what is not committed is read again by the next worker.
            os._exit(128 + number)


@app.command(
    epilog="Example: [bold]projector run --workers 2[/bold], or up to the end: [bold]projector run --until-end[/bold]"
)
def run(
    config_file: ConfigFile = None,
    settings: Settings = None,
    until_end: Annotated[
        bool,
        typer.Option("--until-end", help="Stop at the end of the topic as it is now, once all of it is committed."),
    ] = False,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1, max=256, help="So many worker processes under a supervisor.  [default: one, in this process]"
        ),
    ] = None,
    slot: Annotated[
        str | None,
        typer.Option(help="Stable name of this worker, unique in the group.  [default: <host name>-0]", metavar="NAME"),
    ] = None,
    accept_head: Annotated[
        bool, typer.Option("--accept-head", help="Accept that records before the head of the topic are gone.")
    ] = False,
    restore_checkpoint: Annotated[
        bool,
        typer.Option(
            "--restore-checkpoint", help="Where Kafka has lost the checkpoint, go on at its copy in the store."
        ),
    ] = False,
    metrics_port: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=65_535,
            help="Serve /metrics for Prometheus, /livez and /readyz at this port; with --workers each worker at the "
            "next one.  [default: off]",
        ),
    ] = None,
    metrics_address: Annotated[
        str, typer.Option(help="Where --metrics-port listens; 0.0.0.0: to everybody.", metavar="ADDRESS")
    ] = "127.0.0.1",
    log_format: Annotated[LogFormat, typer.Option(help="Log lines as text or as JSON.")] = LogFormat.TEXT,
    supervisor: Annotated[int | None, typer.Option("--supervised-by", hidden=True)] = None,
    building: Annotated[int | None, typer.Option("--building", hidden=True)] = None,
) -> None:
    """Count the events of the input topic, each exactly once, and publish the new totals.

    SIGTERM or Ctrl-C finishes and commits what is in hand, leaves the group and exits 0; a second one exits at once.
    Exit codes: 0 fine, 2 configuration, 3 refused, 4 ledger damaged, 5 offsets or topic gone, 6 row too big,
    7 watchdog, 8 slot taken, 70 unexpected error.
    """
    from projector import logs
    from projector.metrics import Metrics

    config = configured(config_file, settings)
    logs.begin("json" if supervisor else log_format.value)
    host = socket.gethostname()
    if workers is None:
        name = slot or f"{host}-0"
        metrics = Metrics()
        with _served(metrics, metrics_address, metrics_port) as watch:
            _work(config, name, until_end, accept_head, restore_checkpoint, supervisor, building, metrics, watch)
        return
    if slot:
        raise typer.BadParameter(
            "--slot names one worker; with --workers each gets <host name>-<n>", param_hint="--slot"
        )

    from projector.backends import open_log, open_store
    from projector.preflight import preflight
    from projector.supervisor import supervise, worker_command

    if metrics_port is not None:
        from projector.endpoint import check_free

        if metrics_port + workers > 65_536:
            raise typer.BadParameter(f"{workers} workers need as many ports", param_hint="--metrics-port")
        for n in range(workers):
            check_free(metrics_address, metrics_port + n)
    log, store = open_log(config), open_store(config)
    try:
        preflight(log, store, config)
    finally:
        log.close()
        store.close()
    options = ["--config", str(config_file)] if config_file else []
    for setting in settings or []:
        options += ["--set", setting]
    options += ["--until-end"] * until_end + ["--accept-head"] * accept_head
    options += ["--restore-checkpoint"] * restore_checkpoint
    options += ["--metrics-address", metrics_address] if metrics_port is not None else []
    stops = _Stops(end_at_second=False)
    slots = [f"{host}-{n}" for n in range(workers)]
    sys.exit(supervise(slots, worker_command(options), lambda: stops.count, metrics_port=metrics_port))


@contextmanager
def _served(metrics: "Metrics", address: str, port: int | None) -> "Iterator[Callable[[Config, float], None]]":
    """Serve the metrics, if there is a port; yields what is to be called once log and store are there."""
    if port is None:
        yield lambda *_: None
        return
    from projector.endpoint import Endpoint

    endpoint = Endpoint(metrics, address, port)
    logger.info("metrics, livez and readyz at http://%s:%d", f"[{address}]" if ":" in address else address, port)
    try:
        yield endpoint.watch
    finally:
        endpoint.close()


def spare_the_collector() -> Callable[[], None]:
    """Turn the garbage collector off; what is answered, called once in a while, collects once a minute.

    A batch makes and drops tens of thousands of small lists, none of them in a circle: looking at each cost a
    fifteenth of the rate.
    """
    gc.collect()
    gc.freeze()
    gc.disable()
    collected_at = time.monotonic()

    def collect() -> None:
        nonlocal collected_at
        if time.monotonic() - collected_at >= COLLECT_S:
            collected_at = time.monotonic()
            gc.collect()

    return collect


def _work(
    config: "Config",
    slot: str,
    until_end: bool,
    accept_head: bool,
    restore_checkpoint: bool,
    supervisor: int | None,
    building: int | None,
    metrics: "Metrics",
    watch_lag: "Callable[[Config, float], None]",
) -> None:
    """Run one worker in this process; `supervisor` is the process that would start it again.

    `building`: the generation that it builds, muted, instead of following the live one.
    """
    from projector.following import Watch, build, follow
    from projector.generations import read
    from projector.muted import MutedProjector, below
    from projector.pointer import PointerRow
    from projector.progress import Progress, Sample
    from projector.projector import Projector
    from projector.watchdog import Watchdog

    stops = _Stops(end_at_second=True)

    def stopping() -> bool:
        # A worker whose supervisor is gone stops in order: nobody would start it again.
        return stops.count > 0 or (supervisor is not None and os.getppid() != supervisor)

    log, store, cleared = _connect(config, supervisor is not None, stopping)
    try:
        watchdog = Watchdog(WATCHDOG_S)
        watch_lag(config, cleared.settle_s)
        worker: Projector | None = None

        def make(generation: "Generation", epoch: int, admitted: Callable[[], bool]) -> Projector:
            nonlocal worker
            # What an operator accepted for the generation that was live then says nothing about another one.
            asked_for = generation == cleared.generation
            worker = Projector(
                log,
                store,
                config,
                generation,
                epoch,
                slot,
                cleared.settle_s,
                accept_head=accept_head and asked_for,
                restore_checkpoint=restore_checkpoint and asked_for,
                admitted=admitted,
                beat=watchdog.beat,
                metrics=metrics,
            )
            return worker

        def make_muted(
            generation: "Generation", bound: Callable[[], Mapping[int, int]], admitted: Callable[[], bool]
        ) -> MutedProjector:
            nonlocal worker
            scope = read(store, generation.number)
            worker = muted = MutedProjector(
                log,
                store,
                config,
                generation,
                slot,
                cleared.settle_s,
                bound=bound if scope.until is None else below(bound, scope.until),
                campaigns=scope.campaigns,
                admitted=admitted,
                beat=watchdog.beat,
                metrics=metrics,
            )
            return muted

        collect = spare_the_collector()
        watchdog.start()
        progress = Progress(
            lambda: Sample.of(metrics, worker.lag() if worker else None), SUPERVISED_PROGRESS_S if supervisor else None
        )

        def turned() -> None:
            metrics.turned()
            progress()
            collect()

        def waiting() -> None:
            watchdog.beat()
            turned()

        number = building or cleared.generation.number
        logger.info("slot %s, generation %d, settling %d ms", slot, number, cleared.settle_s * 1000)
        watch = Watch(PointerRow(store, cleared.settle_s), tick=waiting)
        if building is None:
            follow(watch, config, make, until_end, stopping, turned)
        else:
            build(watch, log, config, building, make_muted, stopping, turned)
        progress.close()
        watchdog.stop()
    finally:
        log.close()
        store.close()


def _connect(config: "Config", supervised: bool, stopping: Callable[[], bool]) -> "tuple[Log, Store, Cleared]":
    """Open log and store and check that all is there. A supervised worker waits for what does not answer."""
    from projector.backends import open_log, open_store
    from projector.preflight import preflight

    told_at = float("-inf")
    while True:
        log: Log | None = None
        store: Store | None = None
        try:
            log = open_log(config)
            store = open_store(config)
            return log, store, preflight(log, store, config)
        except ProjectorError as error:
            if log:
                log.close()
            if store:
                store.close()
            if not (supervised and isinstance(error, Retryable)) or stopping():
                raise
            if time.monotonic() - told_at >= REPORT_S:
                told_at = time.monotonic()
                logger.warning("waiting: %s", error)
            time.sleep(0.5)
