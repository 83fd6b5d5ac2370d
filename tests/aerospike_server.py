"""An Aerospike server of our own, on loopback and in a temporary directory, to be killed, frozen and restarted.

`python -m tests.aerospike_server` runs one in the foreground and prints its address.
"""

import atexit
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Any

from tests.ports import free_ports

NOT_EXERCISED = "the Aerospike backend was NOT exercised: set AEROSPIKE_HOSTS, or put the server (asd) on the PATH"
START_S = 30.0
PR_SET_PDEATHSIG = 1

CONFIG = """\
service {{
    cluster-name projector-test
    proto-fd-max 1024
    work-directory {directory}
}}
logging {{
    file {directory}/asd.log {{
        context any info
    }}
}}
network {{
    service {{
        address 127.0.0.1
        access-address 127.0.0.1
        port {ports[0]}
    }}
    heartbeat {{
        mode mesh
        address 127.0.0.1
        port {ports[1]}
        interval 150
        timeout 10
    }}
    fabric {{
        address 127.0.0.1
        port {ports[2]}
    }}
    admin {{
        address 127.0.0.1
        port {ports[3]}
    }}
}}
mod-lua {{
    user-path {directory}/lua
}}
namespace {namespace} {{
    replication-factor 1
    nsup-period 0
    max-record-size {row_bytes_max}
    {extra}
    {storage}
}}
"""
DEVICE = """storage-engine device {{
        file {directory}/data
        filesize 8G
        flush-max-ms {flush_max_ms}
    }}"""
MEMORY = """storage-engine memory {
        data-size 512M
    }"""


class Server:
    """One Aerospike node. It dies with the thread that started it: start and restart it from the main thread.

    `flush_max_ms` None keeps the namespace in memory; `row_bytes_max` is the namespace's max-record-size;
    `extra` is one more line for the namespace, as Aerospike's configuration has it.
    """

    namespace = "test"

    def __init__(self, flush_max_ms: int | None = 25, row_bytes_max: str = "8M", extra: str = "") -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="aerospike-"))
        (self._directory / "lua").mkdir()
        (self._directory / "smd").mkdir()
        ports = free_ports(4)
        self.hosts = f"127.0.0.1:{ports[0]}"
        self._port = ports[0]
        storage = MEMORY
        if flush_max_ms is not None:
            storage = DEVICE.format(directory=self._directory, flush_max_ms=flush_max_ms)
        self._config = self._directory / "aerospike.conf"
        self._config.write_text(
            CONFIG.format(
                directory=self._directory,
                ports=ports,
                namespace=self.namespace,
                row_bytes_max=row_bytes_max,
                extra=extra,
                storage=storage,
            )
        )
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def properties(self) -> dict[str, Any]:
        """What an `AerospikeStore` needs to reach this server."""
        return {"hosts": self.hosts, "namespace": self.namespace}

    @property
    def pid(self) -> int:
        """Its process. Raises RuntimeError while it does not run."""
        if self._process is None:
            raise RuntimeError("the Aerospike server does not run")
        return self._process.pid

    def start(self) -> "Server":
        """Start, and wait until the server takes writes. Raises RuntimeError with the end of its log if it does not."""
        command = ["asd", "--foreground", "--config-file", str(self._config)]
        self._process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, preexec_fn=_die_with_parent
        )
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and self._process.poll() is None:
            if "ns_cluster_size=1;" in self._ask(f"namespace/{self.namespace}"):
                return self
            time.sleep(0.05)
        self.kill()
        log = self._directory / "asd.log"
        end = log.read_text(errors="replace")[-2000:] if log.exists() else "no log"
        raise RuntimeError(f"the Aerospike server did not start: {end}")

    def kill(self) -> None:
        """SIGKILL: whatever it had not written to its device is gone."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM: an orderly stop that loses nothing."""
        self._end(signal.SIGTERM)

    def pause(self) -> None:
        """Freeze it: connections stay, answers do not come. Returns once it stands still."""
        self._signal(signal.SIGSTOP)
        if self._process is not None:
            # A process of many threads stops some time after the signal, and answers until then.
            os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WNOWAIT)

    def resume(self) -> None:
        """Let a frozen server go on."""
        self._signal(signal.SIGCONT)

    def restart(self) -> "Server":
        """Start again on the same data and ports."""
        if self._process is not None:
            self.stop()
        return self.start()

    def remove(self) -> None:
        """Kill it and delete its data. Calling it again does nothing."""
        self.kill()
        shutil.rmtree(self._directory, ignore_errors=True)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def _end(self, number: signal.Signals) -> None:
        self._signal(number)
        self._signal(signal.SIGCONT)
        if self._process is not None:
            self._process.wait(timeout=60)
            self._process = None

    def _ask(self, command: str) -> str:
        """Aerospike's info protocol: version 2, type 1, six bytes of length, the command."""
        request = command.encode() + b"\n"
        try:
            with socket.create_connection(("127.0.0.1", self._port), timeout=1) as connection:
                connection.sendall(b"\x02\x01" + len(request).to_bytes(6, "big") + request)
                with connection.makefile("rb") as answer:
                    length = int.from_bytes(answer.read(8)[2:], "big")
                    return answer.read(length).decode().partition("\t")[2].strip()
        except OSError:
            return ""


def aerospike_properties() -> dict[str, Any] | None:
    """Properties of the server to test against; None where there is none: skip with `NOT_EXERCISED`.

    AEROSPIKE_HOSTS and AEROSPIKE_NAMESPACE (default: test) name one that runs already;
    else one of our own is started, once in each process, if `asd` is on the PATH.
    """
    hosts = os.environ.get("AEROSPIKE_HOSTS")
    if hosts:
        return {"hosts": hosts, "namespace": os.environ.get("AEROSPIKE_NAMESPACE", "test")}
    return _shared().properties if server_available() else None


def server_available() -> bool:
    """Whether a `Server` can be started here."""
    return shutil.which("asd") is not None


@cache
def _shared() -> Server:
    server = Server()
    atexit.register(server.remove)
    return server.start()


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def main() -> None:
    """Run one in the foreground until it is interrupted or terminated."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    server = Server()
    try:
        server.start()
        print(f"hosts={server.hosts} namespace={server.namespace}", flush=True)
        signal.pause()
    except KeyboardInterrupt:
        pass
    finally:
        server.remove()


if __name__ == "__main__":
    main()
