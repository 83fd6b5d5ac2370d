"""A real Kafka broker (one KRaft node) from its own jars, for tests and for trying things out.

`python -m tests.kafka_broker` runs one in the foreground and prints its bootstrap string.
Needs Java 17 and, the first time, Maven; the jars are kept in `.kafka/` at the top of the checkout.
"""

import atexit
import base64
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from functools import cache
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from tests.ports import free_ports

POM = Path(__file__).parent / "kafka-broker" / "pom.xml"
CACHE = Path(__file__).parents[1] / ".kafka"
JVM_FLAGS = ("-XX:+UseSerialGC", "-Xmx768m", "-XX:TieredStopAtLevel=1")
START_SECONDS_MAX = 60

SETTINGS = """\
process.roles=broker,controller
node.id=1
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.quorum.bootstrap.servers=127.0.0.1:{controller_port}
log.dirs={directory}/data
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
default.replication.factor=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
transaction.abort.timed.out.transaction.cleanup.interval.ms=500
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
group.max.session.timeout.ms=1800000
auto.create.topics.enable=false
log.retention.ms=-1
message.max.bytes=10485760
replica.fetch.max.bytes=10485760
socket.request.max.bytes=104857600
"""


class Broker:
    """One broker. Its data and its port stay the same from `start` to `start`; `close` removes the data.

    The process ends with this one, whatever happens to it (Linux; elsewhere at a normal exit).
    """

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="kafka-"))
        port, controller_port = free_ports(2)
        self.bootstrap = f"127.0.0.1:{port}"
        self._classpath = f"{jars()}/*"
        self._process: subprocess.Popen[bytes] | None = None
        settings = self.directory / "server.properties"
        settings.write_text(SETTINGS.format(port=port, controller_port=controller_port, directory=self.directory))
        atexit.register(self.close)
        cluster = "k" + base64.urlsafe_b64encode(uuid.uuid4().bytes).decode()[1:22]
        self._java("kafka.tools.StorageTool", "format", "--standalone", "-t", cluster, "-c", str(settings)).wait()

    @property
    def pid(self) -> int:
        """Its process. Raises RuntimeError while it does not run."""
        if self._process is None:
            raise RuntimeError("the broker does not run")
        return self._process.pid

    def start(self) -> None:
        """Start, and return once it answers. Raises RuntimeError with the end of its log if it does not.

        Call it from the main thread: the broker ends with the thread that started it.
        """
        self._process = self._java("kafka.Kafka", str(self.directory / "server.properties"))
        deadline = time.monotonic() + START_SECONDS_MAX
        while self._process.poll() is None and time.monotonic() < deadline:
            if self._answers():
                return
        log = (self.directory / "broker.log").read_text(errors="replace")
        self.kill()
        raise RuntimeError(f"the Kafka broker did not start:\n{log[-3000:]}")

    def stop(self) -> None:
        """Stop in order (SIGTERM)."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Stop at once (SIGKILL)."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """Freeze it (SIGSTOP): connections stay, nothing answers."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on (SIGCONT)."""
        self._signal(signal.SIGCONT)

    def close(self) -> None:
        """Kill it and remove its data. Calling it again does nothing."""
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _answers(self) -> bool:
        admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0, "socket.timeout.ms": 1000})
        try:
            return bool(admin.list_topics(timeout=0.5).brokers)
        except KafkaException:
            return False

    def _java(self, *arguments: str) -> subprocess.Popen[bytes]:
        die_with_parent = ("setpriv", "--pdeathsig", "KILL") if shutil.which("setpriv") else ()
        with open(self.directory / "broker.log", "ab") as log:
            return subprocess.Popen(
                [*die_with_parent, "java", *JVM_FLAGS, "-cp", self._classpath, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _signal(self, number: signal.Signals) -> None:
        if self._process is None:
            raise RuntimeError("the broker does not run")
        self._process.send_signal(number)

    def _end(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(number)
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None


def jars() -> Path:
    """The directory of the broker's jars, fetched if need be. Raises RuntimeError where it cannot be fetched."""
    ready = CACHE / "jars"
    for tool in ("java",) if ready.exists() else ("java", "mvn"):
        if shutil.which(tool) is None:
            raise RuntimeError(f"the Kafka tests need `{tool}` on the PATH, or KAFKA_BOOTSTRAP")
    CACHE.mkdir(exist_ok=True)
    with open(CACHE / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not ready.exists():
            partial = CACHE / "jars.partial"
            goal = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"
            done = subprocess.run(
                ["mvn", "-q", "-B", "-f", str(POM), goal, "-DincludeScope=runtime", f"-DoutputDirectory={partial}"],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            if done.returncode != 0:
                raise RuntimeError(f"Maven could not fetch the Kafka broker:\n{done.stdout[-3000:]}")
            partial.rename(ready)
    return ready


@cache
def bootstrap() -> str:
    """KAFKA_BOOTSTRAP if it is set, else one broker for this process. Raises RuntimeError where neither is possible."""
    given = os.environ.get("KAFKA_BOOTSTRAP")
    if given:
        return given
    broker = Broker()
    broker.start()
    return broker.bootstrap


def main() -> None:
    """Run a broker until it is interrupted."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    broker = Broker()
    broker.start()
    print(broker.bootstrap, flush=True)
    try:
        signal.pause()
    except KeyboardInterrupt:
        print("stopping", file=sys.stderr)


if __name__ == "__main__":
    main()
