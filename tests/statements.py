"""Statements made of what the projector itself counted, on the embedded pair; events are sent by hand."""

import json
import uuid
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from projector.backends.embedded_log import EmbeddedLog
from projector.backends.embedded_store import EmbeddedStore
from projector.config import Config, load
from projector.log import Message
from projector.migrate import migrate
from projector.pointer import PointerRow
from projector.projector import Projector
from projector.statement.creation import create
from projector.statement.manifest import File, Manifest
from projector.statement.period import Period
from projector.store import Presence, Put, RowKey, Write

BEGIN = 1_767_225_600  # 2026-01-01
END = BEGIN + 31 * 86_400
PERIOD = Period(BEGIN, END)
NOW_MS = (END + 3_600) * 1000
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = KEY.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
PUBLIC_PEM = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
PRIVATE_PEM = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
CAMPAIGNS = {1: "Acme", 2: 'quoted "name", with\r\nlines; ünïcode', 3: "not counted for", 4: "=1+1"}
TAGS = {f"tag-{campaign}": campaign for campaign in CAMPAIGNS}


class Sent(NamedTuple):
    """An event as it is sent."""

    id: str
    campaign: int
    kind: str = "impression"
    second: int = BEGIN
    partition: int = 0


def number(n: int) -> str:
    """The id of event `n`, a UUID."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, str(n)))


class Place:
    """A file with a log of two partitions and a store with `CAMPAIGNS`, each with a tag; pages are of about 3 ids."""

    def __init__(self, directory: Path) -> None:
        self.file = directory / "projector.db"
        self.config: Config = load(None, {"file": str(self.file), "page_ids": "3", "batch_records": "7"})
        self.log, self.store = EmbeddedLog(self.file), EmbeddedStore(self.file)
        self.log.create_topic(self.config.input_topic, 2, {})
        list(migrate(self.log, self.store, self.config))
        stats = dict.fromkeys(("clicks", "conversions", "impressions", "visits"), 0)
        for campaign, name in CAMPAIGNS.items():
            row = [Put("c-id", campaign), Put("c-name", name), Put("stats", stats)]
            self.store.write([Write(RowKey("campaigns", campaign), row, Presence.ABSENT)])
        for tag, campaign in TAGS.items():
            self.store.write([Write(RowKey("tags", tag), [Put("t-id", tag), Put("c-id", campaign)], Presence.ABSENT)])

    def send(self, *events: Sent) -> None:
        """Append, not count."""
        self.log.append(
            [
                Message(self.config.input_topic, None, _value(event), (), event.partition, event.second * 1000 + 999)
                for event in events
            ]
        )

    def count(self) -> None:
        """One worker, to the end."""
        pointer = PointerRow(self.store, 0).settled()
        worker = Projector(self.log, self.store, self.config, pointer.generation(self.config), pointer.epoch, "a", 0)
        worker.run(True, lambda: False)

    def state(self, directory: Path, period: Period = PERIOD, key: Ed25519PrivateKey = KEY) -> Manifest:
        """A statement in `directory`."""
        return create(self.log, self.store, self.config, period, key, directory, now_ms=lambda: NOW_MS)

    def close(self) -> None:
        """Let go of both."""
        with closing(self.log), closing(self.store):
            pass


def _value(event: Sent) -> bytes:
    tag = f"tag-{event.campaign}"
    bins = [
        {"name": "event-id", "type": "str", "value": event.id},
        {"name": "event-data", "type": "map", "value": {"tag": tag, "event": event.kind}},
    ]
    return json.dumps({"msg": "write", "key": ["test", "events", "x", None], "bins": bins}).encode()


def a_month() -> Sequence[Sent]:
    """40 events of January in campaigns 1, 2 and 4, one id of them in two campaigns, and neighbours of the period."""
    kinds = ("impression", "click", "visit", "impression", "conversion")
    events = [Sent(number(n), (1, 2, 4)[n % 3], kinds[n % 5], BEGIN + n * 3_600, n % 2) for n in range(40)]
    return [
        *events,
        Sent("a text, no uuid \U0001f4b6", 1, "visit", END - 1, 1),
        Sent(number(0).upper(), 2, "impression", BEGIN + 7, 0),  # also counted for campaign 1
        events[4]._replace(second=BEGIN + 9),  # a duplicate, at a later position of the same partition
        Sent(number(100), 1, "impression", BEGIN - 1, 0),
        Sent(number(101), 1, "impression", END, 0),
    ]


# --- statements that nobody should believe


def sign(directory: Path, change: Callable[[Any], None] = lambda _: None, key: Ed25519PrivateKey = KEY) -> None:
    """A manifest for the files as they are now, changed by `change`, and its signature."""
    said = json.loads((directory / "manifest.json").read_bytes())
    said["files"] = {name: File.of(directory / name).model_dump() for name in said["files"]}
    change(said)
    content = (json.dumps(said, indent=2, ensure_ascii=False) + "\n").encode()
    (directory / "manifest.json").write_bytes(content)
    (directory / "manifest.sig").write_bytes(key.sign(content))


def rewrite(directory: Path, name: str, query: str) -> None:
    """A Parquet file anew: `query` selects from `old`."""
    old = duckdb.read_parquet(str(directory / name)).to_arrow_table()
    with duckdb.connect() as database:
        database.register("old", old)
        database.execute(f"COPY ({query}) TO '{directory / name}' (FORMAT parquet)")
