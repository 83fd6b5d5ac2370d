"""What the peers need to run, fetched and built once into `.peers/` at the top of the checkout."""

import fcntl
import shutil
import subprocess
import sys
import venv
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.kafka_broker import POM as BROKER_POM

TOP = Path(__file__).parents[2]
CACHE = TOP / ".peers"
LOCK = TOP / "requirements-bench.lock"
POM = Path(__file__).parent / "kafka_streams" / "pom.xml"
SOURCE = POM.parent / "KafkaStreamsCounter.java"
GOAL = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"


class Unavailable(Exception):
    """A peer cannot be run here; the message says what is missing."""


def kafka_version() -> str:
    """The version of the broker that the tests start, and so of Kafka Streams."""
    space = {"m": "http://maven.apache.org/POM/4.0.0"}
    found = ElementTree.parse(BROKER_POM).find(".//m:dependency[m:artifactId='kafka_2.13']/m:version", space)
    if found is None or not found.text:
        raise Unavailable(f"{BROKER_POM} names no version of kafka_2.13")
    return found.text


def quix_version() -> str:
    """The version of Quix Streams in the lock file."""
    for line in LOCK.read_text(encoding="ascii").splitlines():
        name, _, version = line.partition("==")
        if name == "quixstreams":
            return version.split()[0]
    raise Unavailable(f"{LOCK} names no quixstreams")


def quix_python() -> Path:
    """The Python of an environment with Quix Streams, as the lock file has it."""
    with _locked():
        directory = CACHE / f"quixstreams-{quix_version()}"
        python, ready = directory / "bin" / "python", directory / ".ready"
        if not ready.exists():
            shutil.rmtree(directory, ignore_errors=True)
            venv.create(directory, with_pip=True)
            _run(str(python), "-m", "pip", "install", "--quiet", "--require-hashes", "-r", str(LOCK))
            ready.touch()
        return python


def streams_command(*jvm_flags: str) -> list[str]:
    """The command that runs the compiled Kafka Streams program, its arguments to follow."""
    for tool in ("java", "javac", "mvn"):
        if shutil.which(tool) is None:
            raise Unavailable(f"Kafka Streams needs `{tool}` on the PATH")
    with _locked():
        jars = CACHE / f"kafka-streams-{kafka_version()}"
        if not jars.exists():
            partial = jars.with_name(f"{jars.name}.partial")
            options = ["-DincludeScope=runtime", f"-DoutputDirectory={partial}", f"-Dkafka.version={kafka_version()}"]
            _run("mvn", "-q", "-B", "-f", str(POM), GOAL, *options)
            partial.rename(jars)
        classes = CACHE / "classes"
        compiled = classes / f"{SOURCE.stem}.class"
        if not compiled.exists() or compiled.stat().st_mtime < SOURCE.stat().st_mtime:
            _run("javac", "-d", str(classes), "-cp", f"{jars}/*", str(SOURCE))
    return ["java", *jvm_flags, "-cp", f"{classes}:{jars}/*", SOURCE.stem]


@contextmanager
def _locked() -> Iterator[None]:
    CACHE.mkdir(exist_ok=True)
    with open(CACHE / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _run(*command: str) -> None:
    """Raises `Unavailable` with the end of what the command said."""
    print(f"{command[0]}: preparing a peer, once", file=sys.stderr)
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise Unavailable(f"{' '.join(command[:6])} ... failed:\n{done.stdout[-2000:]}")
