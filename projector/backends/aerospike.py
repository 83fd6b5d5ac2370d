"""The store in Aerospike: a write is one operate in a batch, believed only with something read back."""

import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, TypeVar

import aerospike
from aerospike import exception
from aerospike_helpers import expressions as exp  # type: ignore[import-untyped]  # no stubs
from aerospike_helpers.batch.records import BatchRecords  # type: ignore[import-untyped]  # no stubs

from projector.backends.aerospike_columns import FILTERED_OUT, as_expected, unpacked
from projector.backends.aerospike_errors import INDEX_FOUND, PARAMETER, translated
from projector.backends.aerospike_operate import (
    answer,
    answered,
    bins_alone,
    bins_row,
    held_bins,
    read_record,
    row,
    row_key,
    scan_operations,
    write_record,
)
from projector.backends.aerospike_properties import CONFIG_VARIABLE
from projector.errors import Misconfigured, Retryable
from projector.store import Answer, Limits, Outcome, Read, Row, StoreState, Write

T = TypeVar("T")

ROWS_PER_CALL = 1000
ROW_BYTES_DEFAULT = 1 << 20
SETTLE_MARGIN_MS = 250
WRITING_MS = 150  # of a block of 8 MiB, which no longer counts as queued
INDEX_S = 60.0
CONNECT_MS = 3000

WRITE_POLICY = {
    "total_timeout": 5000,
    "socket_timeout": 5000,
    "max_retries": 0,
    "replica": aerospike.POLICY_REPLICA_MASTER,
    "respond_all_keys": True,
}
READ_POLICY = {
    "total_timeout": 5000,
    "socket_timeout": 2000,
    "max_retries": 2,
    "replica": aerospike.POLICY_REPLICA_MASTER,
    "read_mode_ap": aerospike.POLICY_READ_MODE_AP_ALL,
    "respond_all_keys": True,
}
SCAN_POLICY = {"total_timeout": 10_000, "socket_timeout": 10_000, "replica": aerospike.POLICY_REPLICA_MASTER}
INFO_POLICY = {"timeout": 2000}


class AerospikeStore:
    """A `Store` in one namespace of an Aerospike cluster.

    `properties`: `hosts` ("10.0.0.1:3000,10.0.0.2:3000", with TLS "host:tls-name:port"), `namespace`, `auth_mode` and
    `login_timeout_ms` if need be; everything else is the client's configuration (`user`, `password`, `tls`, ...).
    A server that goes away and comes back is found again. Strings with U+0000 or an unpaired surrogate raise
    `ValueError`, values that a row cannot hold `TypeError`, both before anything is sent.
    Raises `Retryable` if no server answers, `Misconfigured` for a wrong property or namespace.
    """

    def __init__(self, properties: Mapping[str, Any]) -> None:
        self._namespace = str(properties["namespace"])
        self._client = _connect(properties)
        known = self._info("namespaces")[0].split(";")
        if self._namespace not in known:
            self._client.close()
            raise Misconfigured(
                f"aerospike.namespace {self._namespace} is not on the server; it has {', '.join(known)}"
            )

    def write(self, writes: Sequence[Write]) -> list[Answer]:
        """Apply each write; one call carries up to 1,000 rows and takes 5 s at most."""
        if len({write.row for write in writes}) != len(writes):
            raise ValueError("two writes to one row in one call")
        records = [write_record(self._namespace, write) for write in writes]
        answers: list[Answer] = []
        for start in range(0, len(writes), ROWS_PER_CALL):
            part = records[start : start + ROWS_PER_CALL]
            try:
                self._client.batch_write(BatchRecords(part), WRITE_POLICY)
            except exception.AerospikeError as error:
                failed = Answer(Outcome.FAILED, error=translated(error.code, error.msg, in_doubt=True))
                answers += [failed] * len(part)
            else:
                answers += map(answer, writes[start : start + ROWS_PER_CALL], part)
        return answers

    def read(self, reads: Sequence[Read]) -> list[Row | None]:
        """Read each from its master; one call carries up to 1,000 rows and takes 5 s at most."""
        if bins := bins_alone(reads):
            return self._read_expected(bins, reads) if reads[0].expected else self._read_bins(bins, reads)
        records = [read_record(self._namespace, read) for read in reads]
        for start in range(0, len(reads), ROWS_PER_CALL):
            part = BatchRecords(records[start : start + ROWS_PER_CALL])
            _ask(lambda part=part: self._client.batch_write(part, READ_POLICY))  # type: ignore[misc]  # bound early
        return [row(read, record) for read, record in zip(reads, records, strict=True)]

    def _read_bins(self, bins: list[str], reads: Sequence[Read]) -> list[Row | None]:
        """The same bins of every row: the client's own call for that takes half the time of one that operates."""
        keys = [row_key(self._namespace, read.row) for read in reads]
        rows: list[Row | None] = []
        for start in range(0, len(keys), ROWS_PER_CALL):
            part = keys[start : start + ROWS_PER_CALL]
            found = _ask(lambda part=part: self._client.batch_read(part, bins, READ_POLICY))  # type: ignore[misc]  # bound early
            if len(found.batch_records) != len(part):
                raise Retryable("Aerospike: no node answers")
            rows += [bins_row(bins, record) for record in found.batch_records]
        return rows

    def _read_expected(self, bins: list[str], reads: Sequence[Read]) -> list[Row | None]:
        """The same, with maps and lists as they were sent; rows that are not as expected are read once more, above."""
        expected = reads[0].expected
        fitting = as_expected(tuple(bins), tuple(expected.items()))
        policy = {**READ_POLICY, "deserialize": False, "expressions": fitting}
        keys = [row_key(self._namespace, read.row) for read in reads]
        rows: list[Row | None] = []
        others: list[int] = []
        for start in range(0, len(keys), ROWS_PER_CALL):
            part = keys[start : start + ROWS_PER_CALL]
            found = _ask(lambda part=part: self._client.batch_read(part, bins, policy))  # type: ignore[misc]  # bound early
            if len(found.batch_records) != len(part):
                raise Retryable("Aerospike: no node answers")
            for record in found.batch_records:
                fits = record.result != FILTERED_OUT
                held = answered(record) if fits else None
                bins_held = None if held is None else unpacked(bins, expected, held)
                if not fits or (held is not None and bins_held is None):
                    others.append(len(rows))
                rows.append(None if bins_held is None else Row(bins_held))
        for at, row_ in zip(others, self._read_bins(bins, [reads[at] for at in others]), strict=True):
            rows[at] = row_
        return rows

    def scan(self, set_name: str, bins: Sequence[str], page_rows: int = 500) -> Iterator[list[Row]]:
        """All rows of a set in the order of their digests, partition by partition."""
        query = self._client.query(self._namespace, set_name)
        query.max_records = page_rows
        query.paginate()
        # Not `select`: rows without any of the bins are left out but counted, so that the scan ends early.
        query.add_ops(scan_operations(bins))
        while not query.is_done():
            found = _ask(lambda: query.results(SCAN_POLICY))
            page = [Row(held_bins(bins, held)) for _, _, held in found]
            if page:
                yield page

    def state(self) -> StoreState:
        """`cluster_key` of every node, all equal, and whether the write queues of all devices are empty."""
        answers = self._info(f"statistics\nnamespace/{self._namespace}")
        keys = {_stated(each, "cluster_key") for each in answers}
        sizes = {_stated(each, "cluster_size") for each in answers}
        whole = all(_stated(each, "cluster_integrity") == "true" for each in answers)
        if len(keys) != 1 or keys == {"0"} or sizes != {str(len(answers))} or not whole:
            raise Retryable("the Aerospike cluster is changing: its nodes do not agree who belongs to it")
        queued = chain.from_iterable(re.findall(r"write_q=(\d+)", each) for each in answers)
        return StoreState(keys.pop(), drained=not any(map(int, queued)))

    def limits(self) -> Limits:
        """The least that any node takes, the longest that any node lets a write wait."""
        configured = self._info(f"get-config:context=namespace;id={self._namespace}")
        waits = [_settle_ms(each) for each in configured]
        return Limits(
            min(map(_row_bytes_max, configured)),
            None if None in waits else max(wait for wait in waits if wait is not None),
            WRITING_MS if any(waits) else 0,
        )

    def create_index(self, set_name: str, bin_name: str) -> None:
        """Create it and wait until it can be read. Raises `Retryable` if that takes longer than a minute."""
        if not self._indexes(set_name, bin_name):
            name = f"{set_name}-{bin_name}"
            numeric = aerospike.INDEX_NUMERIC
            try:
                self._client.index_single_value_create(self._namespace, set_name, bin_name, numeric, name)
            except exception.AerospikeError as error:
                if error.code != INDEX_FOUND:
                    raise translated(error.code, error.msg) from error
        deadline = time.monotonic() + INDEX_S
        while not self.has_index(set_name, bin_name):
            if time.monotonic() > deadline:
                raise Retryable(f"the index on {bin_name} of {set_name} is not ready yet")
            time.sleep(0.1)

    def has_index(self, set_name: str, bin_name: str) -> bool:
        """Whether every node has the numeric index, ready to be read."""
        states = self._indexes(set_name, bin_name)
        return bool(states) and all(state == "RW" for state in states)

    def expiring_sets(self) -> list[str]:
        """What has a default time to live, and sets with a row that has one. Looks at the metadata of all rows."""
        named = set()
        for configured in self._info(f"get-config:context=namespace;id={self._namespace}"):
            if _stated(configured, "default-ttl", "0") != "0":
                named.add("")
        for sets in self._info(f"sets/{self._namespace}"):
            for each in sets.split(";"):
                if _stated(each, "default-ttl", "0") not in ("0", str(aerospike.TTL_NEVER_EXPIRE)):
                    named.add(_stated(each, "set"))
        while (found := self._expiring(named)) is not None:
            named.add(found)
        return sorted(named)

    def close(self) -> None:
        """Close the connections. Calling it again does nothing."""
        self._client.close()

    def _info(self, command: str) -> list[str]:
        """Every node's answer. Raises `Retryable` unless all of them answer."""
        answers = _ask(lambda: self._client.info_all(command, INFO_POLICY))
        for error, _ in answers.values():
            if error is not None:
                raise Retryable(f"Aerospike: a node does not answer: {error}")
        if not answers:
            raise Retryable("Aerospike: no node answers")
        return [text.strip() for _, text in answers.values()]

    def _indexes(self, set_name: str, bin_name: str) -> list[str]:
        """The state of the numeric index on each node; empty if any node has none."""
        wanted = (set_name, bin_name, "numeric")
        states = []
        for listed in self._info(f"sindex-list:namespace={self._namespace}"):
            here = [
                _stated(each, "state")
                for each in listed.split(";")
                if (_stated(each, "set"), _stated(each, "bin"), _stated(each, "type")) == wanted
            ]
            if not here:
                return []
            states += here
        return states

    def _expiring(self, known: set[str]) -> str | None:
        """A set that is not known yet and has a row with a time to live."""
        expires = exp.GT(exp.VoidTime(), 0)
        others = [exp.NE(exp.SetName(), name) for name in known]
        query = self._client.query(self._namespace)
        query.max_records = 1
        policy = {**SCAN_POLICY, "expressions": (exp.And(expires, *others) if others else expires).compile()}
        found = _ask(lambda: query.results(policy, {"nobins": True}))
        return found[0][0][1] or "" if found else None


def _connect(properties: Mapping[str, Any]) -> aerospike.Client:
    if os.environ.get(CONFIG_VARIABLE):
        raise Misconfigured(f"{CONFIG_VARIABLE} is set and would change the client's policies; unset it")
    passed = {key: value for key, value in properties.items() if key not in ("hosts", "namespace")}
    policies = {key: passed.pop(key) for key in ("auth_mode", "login_timeout_ms") if key in passed}
    hosts = str(properties["hosts"])
    config = {
        "connect_timeout": CONNECT_MS,
        **passed,
        "hosts": _hosts(hosts),
        "policies": policies,
        "validate_keys": True,
    }
    try:
        return aerospike.client(config)
    except exception.AerospikeError as error:
        if error.code == PARAMETER:
            raise Misconfigured(f"[aerospike]: {error.msg}") from error
        remedy = translated(error.code, error.msg)
        if isinstance(remedy, Retryable):
            raise Retryable(f"no Aerospike server answers at {hosts}: start it, or correct aerospike.hosts") from error
        raise remedy from error


def _hosts(text: str) -> list[tuple[str, int] | tuple[str, int, str]]:
    hosts: list[tuple[str, int] | tuple[str, int, str]] = []
    for each in text.split(","):
        match each.strip().split(":"):
            case [host, port] if host and port.isdigit():
                hosts.append((host, int(port)))
            case [host, tls_name, port] if host and port.isdigit():
                hosts.append((host, int(port), tls_name))
            case _:
                raise Misconfigured(f"aerospike.hosts has {each.strip()!r}; give host:port, or host:tls-name:port")
    return hosts


def _ask(call: Callable[[], T]) -> T:
    """What `call` returns; it changes nothing, so that any failure may simply be tried again."""
    try:
        return call()
    except exception.AerospikeError as error:
        raise translated(error.code, error.msg) from error


def _stated(text: str, name: str, default: str = "") -> str:
    """The value of `name` in one of the server's name=value lists."""
    found = re.search(rf"(?:^|[;:\n]){re.escape(name)}=([^;:\n]*)", text)
    return found.group(1) if found else default


def _row_bytes_max(configured: str) -> int:
    limit = int(_stated(configured, "max-record-size", "0"))
    return limit or int(_stated(configured, "storage-engine.write-block-size", "0")) or ROW_BYTES_DEFAULT


def _settle_ms(configured: str) -> int | None:
    if _stated(configured, "storage-engine") == "memory":
        return None
    if _stated(configured, "storage-engine.commit-to-device") == "true":
        return 0
    # Twice: the server looks every `flush-max-ms`, and passes over a device of which a block has become full since it
    # looked last, with what the block that came after it holds (drv_ssd.c, ssd_flush_current_swb).
    flush_max_ms = int(_stated(configured, "storage-engine.flush-max-ms", "0"))
    return 2 * flush_max_ms + SETTLE_MARGIN_MS if flush_max_ms else None
