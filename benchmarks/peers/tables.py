"""The tables of a comparison, from its raw figures."""

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks.peers.contender import BASES, CONTENDERS
from benchmarks.result import Table

Figures = dict[str, Any]
TITLES = {contender.name: contender.title for contender in CONTENDERS}
NONE = "-"

ABOUT = """\
Programs that do the same work on the same broker and topic, in turns: they parse each record, find the campaign of its
tag, count by campaign and KPI, and publish each new total. A program is measured by what a read_committed reader of its
output sees: the sum of the last values is the number of events counted so far.

- **projector**: `projector run` as it comes, deduplicating by event id for ever; it looks tags up in its store.
- **Kafka Streams**: `exactly_once_v2`, its defaults otherwise (commit interval 100 ms, cache 10 MB, changelogs),
  `-Xmx1g`; one repartitioning by campaign and KPI; the ids in a persistent (RocksDB) store; Jackson into records.
- **Quix Streams**: `processing_guarantee="exactly-once"`, its defaults otherwise (commit interval 5 s, changelogs);
  `group_by` campaign and KPI; the ids in its state. Changed: a fixed `transactional.id`, for with a random one, the
  default, a killed worker's transaction stays open for a minute.
- **hand-written loop**: one `operate` an event, commit every 1,000 events, at least once; the ids in a map of the row,
  put create-only in the same `operate`.

Peers find campaigns in memory, from a file, which favours them, as does that they deduplicate per campaign and KPI: an
id that comes again with another kind is counted again. Session timeouts are 6 s everywhere. The input has 12
partitions, each output 3. Programs, broker, store and reader share the machine: take the times as ratios."""


def tables(raw: Figures) -> list[Table]:
    """All that there are figures for."""
    found = []
    if raw["clean"]:
        found += [_rates(raw), _costs(raw)]
    if raw["clean"] or raw["duplicates"] or raw["killed"]:
        found.append(_counts(raw))
    if raw["killed"]:
        found.append(_recoveries(raw))
    if raw["latency"]:
        found.append(_latencies(raw))
    if raw["failures"]:
        note = "Runs that ended by themselves or published nothing, and so are in no other table."
        rows = [[TITLES[each["name"]], each["kind"], str(each["turn"]), each["error"]] for each in raw["failures"]]
        found.append(Table("Failures", note, ["program", "run", "turn", "what happened"], rows))
    return found


def _rates(raw: Figures) -> Table:
    events = raw["events"]
    note = (
        f"{events:,} clean events a run. Steady: without the start, between the first and the last messages of the "
        "output; of programs that publish in bursts (Quix Streams, at each commit) from where its group is assembled, "
        "the wait for the last commit included. Ratios are taken within each turn: median (range)."
    )
    head = ["program", "steady, events/s", "from start to end", "share of the ceiling"]
    bases = [base for base in BASES if base in raw["clean"]]
    head += [f"{TITLES[base]}, is so many times as fast" for base in bases]
    rows = []
    if raw["ceiling"]:
        rates = [each["rate"] for each in raw["ceiling"]]
        rows.append(["ceiling: consume and decode, nothing else", _number(rates), NONE, "1.00", *[NONE] * len(bases)])
    for name, turns in raw["clean"].items():
        rows.append(
            [
                TITLES[name],
                _number(each["steady_per_s"] for each in turns),
                _number(each["whole_per_s"] for each in turns),
                _ratio(turns, raw["ceiling"], "steady_per_s", "rate"),
                *(_ratio(raw["clean"][base], turns, "steady_per_s", "steady_per_s") for base in bases),
            ]
        )
    return Table("Throughput", note, head, rows)


def _costs(raw: Figures) -> Table:
    note = (
        "Microseconds on a CPU per event, of the program with all its processes, of the broker (input, output, "
        "changelogs, the reader) and of the store, in the steady part; `with start`: of the program from its start. "
        "Memory: the peaks of its processes, added."
    )
    head = ["program", "CPU us", "with start", "broker", "store", "in all", "peak MiB", "messages published"]
    rows = []
    if raw["ceiling"]:
        costs = _number((each["cpu_us"] for each in raw["ceiling"]), 1)
        rows.append(["ceiling: consume and decode, nothing else", costs, *[NONE] * 6])
    for name, turns in raw["clean"].items():
        parts = [[each[f"cpu_{part}_us"] for each in turns] for part in ("program", "broker", "store")]
        every = [sum(spent) for spent in zip(*parts, strict=True) if None not in spent]
        whole = _number((each["cpu_whole_us"] for each in turns), 1)
        rows.append(
            [
                TITLES[name],
                _number(parts[0], 1),
                whole,
                *(_number(part, 1) for part in parts[1:]),
                _number(every, 1),
                _number(each["peak_mib"] for each in turns),
                _number(each["messages"] for each in turns),
            ]
        )
    return Table("CPU, memory, output", note, head, rows)


def _counts(raw: Figures) -> Table:
    note = (
        "Against the simulator's truth: `right`, or by how many events the totals are off, and in how many cells "
        "(campaign and KPI). Of the projector also its own `verify` and `balance`. Of all turns the worst is shown."
    )
    kinds = {
        "clean": "clean",
        "duplicates": f"{raw['duplicate_share']:.0%} duplicates",
        "killed": f"after {raw['kills']} x kill -9",
    }
    names = [name for name in TITLES if any(name in raw[kind] for kind in kinds)]
    wanted = {"killed": raw["kills"]}
    rows = [
        [TITLES[name], *(_verdict(raw[kind].get(name, []), wanted.get(kind, 0)) for kind in kinds)] for name in names
    ]
    return Table("Are the counts right?", note, ["program", *kinds.values()], rows)


def _verdict(turns: Sequence[Figures], kills: int) -> str:
    if not turns:
        return NONE
    fewest = min(each["kills"] for each in turns)
    return _found(turns) + (f", {fewest} kills only: it was done by then" if fewest < kills else "")


def _found(turns: Sequence[Figures]) -> str:
    unfinished = [each for each in turns if each["out_of_time"]]
    if unfinished:
        return f"stopped at {unfinished[0]['counted']:,} of {unfinished[0]['target']:,}"
    worst = max(turns, key=lambda each: (each["wrong_cells"], each["own_checks"] is False))
    if worst["wrong_cells"]:
        return f"**{worst['difference']:+,}** ({worst['wrong_cells']} cells)"
    return "right" if worst["own_checks"] in (True, None) else "**own checks fail**"


def _recoveries(raw: Figures) -> Table:
    note = (
        "Seconds from kill -9 of the whole program, started again at once, to the next message of its output, with "
        f"{raw['events_checked']:,} events in the topic; all kills of all turns."
    )
    rows = []
    for name, turns in raw["killed"].items():
        seconds = [each for turn in turns for each in turn["recoveries_s"]]
        rows.append([TITLES[name], str(len(seconds)), _number(seconds, 1), _range(seconds, 1)])
    return Table("Recovery", note, ["program", "kills", "median, s", "range, s"], rows)


def _latencies(raw: Figures) -> Table:
    note = (
        "Milliseconds from the moment an event is sent until a read_committed reader has a total that includes it, "
        "after 10 s of warm-up, median of the turns. `counted`: the share of all events sent that was counted up to "
        "30 s after the last; under 100 % the program does not keep up, and its delays grow as long as events come."
    )
    rows = []
    for rate, contenders in raw["latency"].items():
        for name, turns in contenders.items():
            measured = [each for each in turns if each["events"]]
            shown = [_number(each[cut] for each in measured) for cut in ("p50_ms", "p99_ms", "max_ms")]
            share = min(each["included"] / each["sent"] for each in turns)
            rows.append([f"{int(rate):,}", TITLES[name], *shown, f"{share:.1%}"])
    return Table("Latency", note, ["events/s", "program", "p50 ms", "p99 ms", "max ms", "counted"], rows)


def _number(values: Iterable[float | None], digits: int = 0) -> str:
    known = [value for value in values if value is not None]
    return f"{statistics.median(known):,.{digits}f}" if known else NONE


def _range(values: Sequence[float], digits: int) -> str:
    return f"{min(values):.{digits}f}-{max(values):.{digits}f}" if values else NONE


def _ratio(ours: Sequence[Figures], theirs: Sequence[Figures], mine: str, other: str) -> str:
    same = [(one, two) for one in ours for two in theirs if one["turn"] == two["turn"]]
    ratios = [one[mine] / two[other] for one, two in same if one[mine] and two[other]]
    if not ratios:
        return NONE
    return f"{statistics.median(ratios):.2f}" + (f" ({_range(ratios, 2)})" if len(ratios) > 1 else "")
