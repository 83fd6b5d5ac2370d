"""Several workers under one supervisor: who is started again, who is not, and who ends when."""

import os
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from confluent_kafka import TopicPartition

from projector.supervisor import supervise
from tests.end_to_end.harness import Pipeline, Worker, eventually, wait_until

HOST = socket.gethostname()
SLOTS = [f"{HOST}-0", f"{HOST}-1"]
FIVE_MINUTES = {"kafka__session__timeout__ms": 300_000, "kafka__max__poll__interval__ms": 300_000}


def _two(pipeline: Pipeline, *options: str) -> Worker:
    """A supervisor whose two workers have their partitions: no rebalance is under way."""
    supervisor = pipeline.start("--workers", "2", *options, batch_records=200, **FIVE_MINUTES)
    begun = [f"{slot}: assigned partitions" for slot in SLOTS]
    wait_until(lambda: all(text in supervisor.said for text in begun), "both have partitions", supervisor)
    wait_until(lambda: pipeline.members() == [f"{pipeline.group}-{s}" for s in SLOTS], "both are members", supervisor)
    assert sorted(pipeline.supervised()) == SLOTS
    return supervisor


def test_a_killed_worker_is_started_again(pipeline: Pipeline) -> None:
    """kill -9 of either worker under load: it comes back in its slot, and every number is the truth."""
    supervisor = _two(pipeline)
    feed = pipeline.feed(2_000, pipeline.traffic.take(12_000))
    for slot in SLOTS:
        pipeline.wait_committed(pipeline.committed() + 500, supervisor)
        _kill(pipeline, slot, supervisor)
        assert f"{slot}: ended by SIGKILL; starting again" in supervisor.said
    feed.join()
    pipeline.wait_caught_up(supervisor)
    eventually(pipeline.exact)
    supervisor.stop()
    pipeline.exact()


def _kill(pipeline: Pipeline, slot: str, supervisor: Worker) -> None:
    """kill -9 of one worker; returns once it has a successor."""
    victim = pipeline.supervised()[slot]
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: pipeline.supervised().get(slot, victim) != victim, "it is started again", supervisor)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_all(pipeline: Pipeline, number: signal.Signals) -> None:
    """Under load: every worker commits what is in the rows and leaves the group, the supervisor exits 0."""
    supervisor = _two(pipeline)
    feed = pipeline.feed(2_000, pipeline.traffic.take(8_000))
    pipeline.wait_committed(1_000, supervisor)
    supervisor.signal(number)
    supervisor.ends(0)
    assert pipeline.supervised() == {}
    assert pipeline.members() == []
    pipeline.balanced(None)
    feed.join()
    pipeline.run_to_end("--workers", "2")
    pipeline.exact()


def test_until_end(pipeline: Pipeline) -> None:
    """Two workers end at the end, and the supervisor with them: 0; also where there is nothing more."""
    pipeline.produce(pipeline.traffic.take(6_000))
    for _ in range(2):
        pipeline.run_to_end("--workers", "2", batch_records=200)
        assert pipeline.supervised() == {}
        assert pipeline.members() == []
        pipeline.exact()


def test_the_second_process_of_a_slot_ends_the_first(pipeline: Pipeline) -> None:
    """The first exits 8; the second counts all there is."""
    pipeline.produce(pipeline.traffic.take(3_000))
    first = pipeline.start("--slot", "a", batch_records=200)
    pipeline.wait_committed(1, first)
    second = pipeline.start("--slot", "a", batch_records=200)
    first.ends(8)
    assert first.said.count("error: ") == 1
    pipeline.produce(pipeline.traffic.take(3_000))
    pipeline.wait_caught_up(second)
    eventually(pipeline.exact)
    second.stop()


def test_a_supervised_worker_whose_slot_is_taken(pipeline: Pipeline) -> None:
    """It is not started again, or the two would fence each other for ever; the others go on; at last 8."""
    supervisor = _two(pipeline)
    thief = pipeline.start("--slot", SLOTS[0])
    wait_until(lambda: f"{SLOTS[0]}: exit code 8; not started again" in supervisor.said, "8", supervisor, thief)
    pipeline.produce(pipeline.traffic.take(4_000))
    pipeline.wait_caught_up(supervisor, thief)
    assert list(pipeline.supervised()) == SLOTS[1:]
    eventually(pipeline.exact)
    supervisor.signal(signal.SIGTERM)
    supervisor.ends(8)
    thief.stop()
    pipeline.exact()


def test_workers_do_not_outlive_their_supervisor(pipeline: Pipeline) -> None:
    """kill -9 of the supervisor under load: its workers stop in order by themselves."""
    supervisor = _two(pipeline)
    feed = pipeline.feed(2_000, pipeline.traffic.take(8_000))
    pipeline.wait_committed(1_000, supervisor)
    supervisor.kill()
    wait_until(lambda: not pipeline.supervised(), "the workers end")
    assert pipeline.members() == []
    pipeline.balanced(None)
    feed.join()
    pipeline.run_to_end("--workers", "2")
    pipeline.exact()


def test_workers_that_just_began_do_not_outlive_their_supervisor(pipeline: Pipeline) -> None:
    """The same before they have opened anything."""
    supervisor = pipeline.start("--workers", "2")
    wait_until(lambda: sorted(pipeline.supervised()) == SLOTS, "both are started", supervisor)
    supervisor.kill()
    wait_until(lambda: not pipeline.supervised(), "the workers end")
    assert pipeline.members() == []


def test_a_worker_that_must_not_go_on_ends_all(pipeline: Pipeline) -> None:
    """Records are gone: no worker is started again, and the supervisor exits with their code."""
    pipeline.produce(pipeline.traffic.take(500))
    ends = [TopicPartition(pipeline.input_topic, p, offset) for p, offset in pipeline.ends().items()]
    for future in pipeline.admin.delete_records(ends).values():
        future.result(30)
    supervisor = pipeline.start("--workers", "2")
    supervisor.ends(5)
    assert "starting again" not in supervisor.said
    assert "error: partition" in supervisor.said
    assert pipeline.supervised() == {}
    assert pipeline.checkpoint() == {}


# --- one group over several machines: all that they share is broker, store and configuration

MACHINE = """
import socket, sys
from projector.cli.app import main
host = sys.argv.pop(1)
socket.gethostname = lambda: host
main()
"""
SHORT = {"kafka__session__timeout__ms": 2_000, "kafka__heartbeat__interval__ms": 300}


def _machine(pipeline: Pipeline, host: str) -> Worker:
    """`projector run --workers 2` as on a machine of that name."""
    command = pipeline.command("--workers", "2", batch_records=200, **SHORT)
    program = command.index("-m")
    supervisor = Worker([*command[:program], "-c", MACHINE, host, *command[program + 2 :]], pipeline.directory)
    pipeline.workers.append(supervisor)
    return supervisor


def _pull_the_plug(pipeline: Pipeline, host: str, supervisor: Worker) -> None:
    """kill -9 of the supervisor and of its workers, before they see that it is gone."""
    victims = [pid for slot, pid in pipeline.supervised().items() if slot.startswith(f"{host}-")]
    assert len(victims) == 2
    for victim in victims:
        os.kill(victim, signal.SIGSTOP)
    supervisor.kill()
    for victim in victims:
        os.kill(victim, signal.SIGKILL)


def _members(pipeline: Pipeline, *hosts: str) -> bool:
    return pipeline.members() == [f"{pipeline.group}-{host}-{n}" for host in hosts for n in (0, 1)]


def test_one_of_two_machines_dies(make_pipeline: Callable[..., Pipeline], bootstrap: str) -> None:
    """Under load; the other machine takes over, and gives back when it comes again in its slots. All is the truth."""
    pipeline = make_pipeline(bootstrap).prepare(partitions=5)
    one, two = _machine(pipeline, "one"), _machine(pipeline, "two")
    wait_until(lambda: _members(pipeline, "one", "two"), "four members", one, two)
    feed = pipeline.feed(2_000, pipeline.traffic.take(12_000))
    pipeline.wait_committed(3_000, one, two)
    _pull_the_plug(pipeline, "one", one)
    wait_until(lambda: _members(pipeline, "two"), "the sessions of the dead end", two)
    feed.join()
    pipeline.wait_caught_up(two)
    eventually(pipeline.exact)
    one = _machine(pipeline, "one")
    wait_until(lambda: _members(pipeline, "one", "two"), "it comes again", one, two)
    pipeline.produce(pipeline.traffic.take(3_000))
    pipeline.wait_caught_up(one, two)
    one.stop()
    two.stop()
    pipeline.exact()


def test_machines_restarted_one_after_the_other(pipeline: Pipeline) -> None:
    """Under load: each stops in order and starts again. Of four workers on three partitions one stands by."""
    machines = {host: _machine(pipeline, host) for host in ("one", "two")}
    wait_until(lambda: _members(pipeline, *machines), "four members", *machines.values())
    feed = pipeline.feed(2_000)
    pipeline.wait_committed(1_000, *machines.values())
    for host in list(machines):
        machines[host].stop()
        machines[host] = _machine(pipeline, host)
        wait_until(lambda: _members(pipeline, *machines), "four members again", *machines.values())
        pipeline.wait_committed(pipeline.committed() + 1_000, *machines.values())
    feed.stop()
    pipeline.wait_caught_up(*machines.values())
    for machine in machines.values():
        machine.stop()
    pipeline.exact()


def test_two_machines_of_one_name(pipeline: Pipeline) -> None:
    """The one that starts last has the slots; the other ends with 8, and nothing is counted twice."""
    first = _machine(pipeline, "one")
    wait_until(lambda: _members(pipeline, "one"), "two members", first)
    feed = pipeline.feed(2_000, pipeline.traffic.take(8_000))
    pipeline.wait_committed(1_000, first)
    second = _machine(pipeline, "one")
    first.ends(8)
    feed.join()
    pipeline.wait_caught_up(second)
    eventually(pipeline.exact)
    second.stop()
    pipeline.exact()


# --- the supervisor's rules, with workers that end as they are told

WORKER = """
import os, signal, sys, time
from pathlib import Path
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
slot = sys.argv[sys.argv.index("--slot") + 1]
ends = dict(pair.split("=") for pair in sys.argv[2].split(","))
starts = {each: Path(sys.argv[1], each) for each in ends}
with starts[slot].open("a") as file:
    file.write("x")
while not all(each.exists() for each in starts.values()):
    time.sleep(0.01)
codes = ends[slot].split("/")
code = codes[min(len(starts[slot].read_text()), len(codes)) - 1]
if code == "stays":
    print("x" * 100_000, file=sys.stderr)
    while True:
        time.sleep(0.05)
if int(code) < 0:
    os.kill(os.getpid(), -int(code))
sys.exit(int(code))
"""


def _supervised(directory: Path, ends: dict[str, str]) -> tuple[int, dict[str, int]]:
    """Supervise workers that end so, one code a start: the supervisor's code, and how often each was started."""
    command = [
        sys.executable,
        "-c",
        WORKER,
        str(directory),
        ",".join(f"{slot}={codes}" for slot, codes in ends.items()),
    ]
    code = supervise(list(ends), command, lambda: 0)
    return code, {slot: len((directory / slot).read_text()) for slot in ends}


@pytest.mark.parametrize("code", [7, -signal.SIGKILL, -signal.SIGSEGV, -signal.SIGALRM])
def test_started_again(tmp_path: Path, code: int) -> None:
    """After the watchdog and after a signal, as often as it takes; the others are left alone."""
    assert _supervised(tmp_path, {"a": f"{code}/{code}/0", "b": "0"}) == (0, {"a": 3, "b": 1})


@pytest.mark.parametrize(("code", "ends"), [(1, 70), *((code, code) for code in (2, 3, 4, 5, 6, 70))])
def test_not_started_again(tmp_path: Path, code: int, ends: int) -> None:
    """After any other failure: the others are stopped, and the supervisor ends with that code; 1 is a difference."""
    assert _supervised(tmp_path, {"a": str(code), "b": "stays"}) == (ends, {"a": 1, "b": 1})


def test_a_taken_slot_ends_one_worker(tmp_path: Path) -> None:
    """The others go on to their own end; then 8."""
    assert _supervised(tmp_path, {"a": "8", "b": "7/7/0"}) == (8, {"a": 1, "b": 3})


# --- the watchdog


def _watched(call: str) -> "subprocess.CompletedProcess[str]":
    program = f"""
        import ctypes, time
        from projector.watchdog import Watchdog

        watchdog = Watchdog(0.3)
        watchdog.start()
        for _ in range(10):
            time.sleep(0.05)
            watchdog.beat()
        {call}
        print("came back")
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


def test_a_call_that_hangs() -> None:
    """Exit 7, one line, and where it hangs."""
    done = _watched("time.sleep(300)")
    assert done.returncode == 7
    assert done.stderr.startswith("error: a client call hangs since ")
    assert "most recent call first" in done.stderr
    assert done.stdout == ""


def test_a_call_that_hangs_with_the_lock() -> None:
    """No thread of ours can run: the kernel ends the process by a signal."""
    done = _watched("ctypes.PyDLL(None).sleep(300)")
    assert done.returncode == -signal.SIGALRM
    assert done.stdout == ""


def test_a_watchdog_that_was_stopped() -> None:
    """Ends nothing."""
    done = _watched("watchdog.stop(); time.sleep(1)")
    assert (done.returncode, done.stdout, done.stderr) == (0, "came back\n", "")


def test_a_worker_that_hangs_is_started_again(tmp_path: Path) -> None:
    """Watchdog and supervisor together: a call that hangs at the first start, and does not at the second."""
    program = textwrap.dedent("""
        import sys, time
        from pathlib import Path
        from projector.watchdog import Watchdog

        watchdog = Watchdog(0.3)
        watchdog.start()
        started = Path(sys.argv[1])
        with started.open("a") as file:
            file.write("x")
        if started.read_text() == "x":
            time.sleep(300)
        watchdog.stop()
    """)
    started = tmp_path / "started"
    command: Sequence[str] = [sys.executable, "-c", program, str(started)]
    assert supervise(["a"], command, lambda: 0) == 0
    assert started.read_text() == "xx"
