"""The settings: what may be set, where values come from, and what is refused.

Four layers, the later over the earlier: default, file (`projector.toml`), environment (`PROJECTOR_...`), flag.
A whole setting is taken from one layer; of `[kafka]` and `[aerospike]` each property is.
Every error is `Misconfigured`: one line that names the place, what is wrong there, and the way out.
"""

import difflib
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field, PrivateAttr, ValidationError
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict
from pydantic_settings.exceptions import SettingsError

from projector.errors import Misconfigured

DEFAULT_FILE = Path("projector.toml")
PREFIX = "PROJECTOR_"
TABLES = ("kafka", "aerospike")
OWNED: Mapping[str, frozenset[str]] = {
    "kafka": frozenset({"transactional.id", "group.id", "group.instance.id", "enable.auto.commit"}),
    "aerospike": frozenset(),
}

_SECRET = re.compile(r"passw|passphrase|_pw$|secret|token|credential|private|\.pem$|jaas|oauthbearer\.config", re.I)
_SERVICE_LINK = re.compile(r"projector_(port|service)(_|$)")  # Kubernetes sets these for a Service named "projector"

Layer: TypeAlias = dict[str, Any]


def _no_bool(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("give a number, not true or false")
    return value


def _a_topic(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,249}", name) or name in (".", ".."):
        raise ValueError("give 1 to 249 of the characters A-Z a-z 0-9 . _ -")
    return name


Whole = Annotated[int, BeforeValidator(_no_bool)]
Topic = Annotated[str, AfterValidator(_a_topic)]


class Config(BaseSettings):
    """What is in force. `load` reads all layers; `Config(...)` takes its arguments and the defaults, nothing else."""

    model_config = SettingsConfigDict(extra="forbid", frozen=True, env_prefix=PREFIX)

    log: Literal["embedded", "kafka"] = Field(
        "embedded", description="Where events come from and totals go to: `embedded` (one SQLite file) or `kafka`."
    )
    store: Literal["embedded", "aerospike"] = Field(
        "embedded", description="Where campaigns and the ledger are kept: `embedded` (one SQLite file) or `aerospike`."
    )
    file: Path = Field(
        Path("projector.db"),
        description="The SQLite file of the embedded log and store. A relative path starts at the working directory.",
    )
    input_topic: Topic = Field(
        "edge-to-core", description="The topic of ad events, as Aerospike's connector writes it."
    )
    kpi_topic: Topic = Field("subscription-events", description="The topic that new totals are published to.")
    quarantine_topic: Topic = Field(
        "projector-quarantine", description="The topic for parked and rejected records, with their original bytes."
    )
    group: str = Field(
        "projector",
        min_length=1,
        max_length=200,
        description="Consumer group of generation 1; `<group>-<slot>` names a worker's transactions.",
    )
    source_set: str = Field(
        "events", min_length=1, max_length=63, description="Records of any other Aerospike set are rejected."
    )
    batch_records: Whole = Field(10_000, ge=1, le=1_000_000, description="Most records in one batch.")
    batch_ms: Whole = Field(
        25, ge=1, le=60_000, description="Longest wait, in milliseconds, for a batch to become full."
    )
    republish_ms: Whole = Field(
        5_000,
        ge=100,
        le=3_600_000,
        description="Milliseconds after a row's latest publication at which a busy worker publishes its last word.",
    )
    settle_ms: Literal["auto"] | Annotated[Whole, Field(ge=0, le=600_000)] = Field(
        "auto",
        description="Milliseconds that a write stays in the store before its offset is committed. "
        "`auto`: 0 where an acknowledged write is safe, else the namespace's `flush-max-ms` + 250.",
    )
    allow_volatile_store: bool = Field(
        False, description="Run although the store can never promise to keep a write. Counts may then be lost."
    )
    kafka: dict[str, str | int | float | bool] = Field(
        default_factory=dict, repr=False, description="Any librdkafka property, passed on to every client."
    )
    aerospike: dict[str, Any] = Field(
        default_factory=dict,
        repr=False,
        description="`hosts`, `namespace`, and any entry of the Aerospike client's configuration, passed on.",
    )

    _origins: dict[str, str] = PrivateAttr(default_factory=dict)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003  # pydantic-settings passes these five by name
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what `load` merged, so that it knows where each value came from."""
        return (init_settings,)

    def values(self) -> "Iterator[Value]":
        """Every setting and client property in force, with its origin; secrets as `***`."""
        for name in type(self).model_fields:
            held = getattr(self, name)
            if name not in TABLES:
                yield Value(name, str(held) if isinstance(held, Path) else held, self._origins.get(name, "default"))
                continue
            for key, value in held.items():
                yield Value(f"{name}.{key}", shown(key, value), self._origins.get(f"{name}.{key}", "default"))


class Value(NamedTuple):
    """One line of `projector config`."""

    name: str
    value: Any
    origin: str


def shown(name: str, value: Any) -> Any:
    """`value` as it may be printed: `***` where the name says, or the value shows, that it is a secret."""
    if _SECRET.search(name):
        return "***"
    if isinstance(value, Mapping):
        return {key: shown(str(key), inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [shown(name, inner) for inner in value]
    if isinstance(value, str):
        return re.sub(r"(://[^/@\s]*:)[^/@\s]*@", r"\1***@", value)
    return value


def load(file: Path | None = None, flags: Mapping[str, Any] | None = None) -> Config:
    """The settings in force. `file` None: `PROJECTOR_CONFIG`, else `projector.toml` if it is there.

    `flags` are settings by name; of the tables, each property as `kafka.<property>`. Raises `Misconfigured`.
    """
    named = file or (Path(os.environ["PROJECTOR_CONFIG"]) if os.environ.get("PROJECTOR_CONFIG") else None)
    merged: Layer = {}
    origins: dict[str, str] = {}
    for layer, origin in (
        (_from_file(named), f"file {named or DEFAULT_FILE}"),
        (_from_environment(), "environment"),
        (dict(flags or {}), "flag"),
    ):
        for name, value in _flat(layer, origin):
            merged[name] = value
            origins[name] = origin
    nested: Layer = {table: {} for table in TABLES}
    for name, value in merged.items():
        table, dot, key = name.partition(".")
        if dot:
            nested[table][key] = value
        else:
            nested[name] = value
    try:
        config = Config(**nested)
    except ValidationError as error:
        raise Misconfigured(_wrong_value(error, origins)) from None
    _check_together(config)
    config._origins.update(origins)
    return config


def variable(name: str) -> str:
    """The environment variable of a setting or of a `kafka.` or `aerospike.` property."""
    return PREFIX + re.sub(r"[.-]", "_", name).upper()


def _from_file(named: Path | None) -> Layer:
    path = named or DEFAULT_FILE
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except FileNotFoundError:
        if named is None:
            return {}
        raise Misconfigured(f"{path}: no such file; create it, or leave out --config and PROJECTOR_CONFIG") from None
    except OSError as error:
        raise Misconfigured(f"{path}: {error.strerror}; make it a readable file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Misconfigured(f"{path}: not TOML: {error}; correct that line") from None


def _from_environment() -> Layer:
    source = EnvSettingsSource(Config, env_nested_delimiter="_", env_nested_max_split=1)
    known = {variable(name).lower() for name in Config.model_fields} | {"projector_config"}
    tables = tuple(f"{variable(table).lower()}_" for table in TABLES)
    for name in source.env_vars:
        if name.startswith(PREFIX.lower()) and name not in known and not name.startswith(tables):
            if _SERVICE_LINK.match(name):
                continue
            close = _meant(name.upper(), [each.upper() for each in known])
            raise Misconfigured(f"environment: no setting {name.upper()}; {close or 'unset it'}")
    try:
        layer: Layer = source()
    except SettingsError:
        raise Misconfigured(
            'PROJECTOR_KAFKA, PROJECTOR_AEROSPIKE: not a JSON object; give \'{"name": "value"}\''
        ) from None
    if isinstance(layer.get("kafka"), dict):
        layer["kafka"] = {key.replace("_", "."): value for key, value in layer["kafka"].items()}
    return layer


def _flat(layer: Layer, origin: str) -> Iterator[tuple[str, Any]]:
    """The settings of a layer by full name: those of the tables as `kafka.<property>`. Unknown and owned ones raise."""
    for name, value in layer.items():
        table, dot, key = name.partition(".")
        if table in TABLES and dot:
            yield _permitted(table, key, origin), value
        elif name in TABLES:
            if not isinstance(value, dict):
                raise Misconfigured(f"{origin}: {name} is a table of client properties; write [{name}]")
            for key, inner in _properties(value) if name == "kafka" else value.items():
                yield _permitted(name, key, origin), inner
        elif name in Config.model_fields:
            yield name, value
        else:
            close = _meant(name, list(Config.model_fields))
            raise Misconfigured(f"{origin}: no setting {name!r}; {close or 'remove it'}")


def _properties(table: Layer, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """TOML reads `bootstrap.servers = ...` as a table in a table; Kafka's properties have dots in their names."""
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _properties(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _permitted(table: str, key: str, origin: str) -> str:
    if key in OWNED[table]:
        raise Misconfigured(f"{origin}: {table}.{key} belongs to the protocol and cannot be set; remove it")
    return f"{table}.{key}"


def _meant(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]}?" if close else ""


def _wrong_value(error: ValidationError, origins: Mapping[str, str]) -> str:
    first = error.errors(include_url=False, include_context=False)[0]
    name = str(first["loc"][0])
    if name in TABLES and len(first["loc"]) > 1:
        name = f"{name}.{first['loc'][1]}"
    origin = origins.get(name, "default")
    place = variable(name) if origin == "environment" else f"--{name.replace('_', '-')}" if origin == "flag" else origin
    wrong = first["msg"].removeprefix("Value error, ")
    return f"{place}: {name} is {shown(name, first['input'])!r}: {wrong[:1].lower()}{wrong[1:]}"


def _check_together(config: Config) -> None:
    topics = [config.input_topic, config.kpi_topic, config.quarantine_topic]
    if len(set(topics)) < len(topics):
        raise Misconfigured("input_topic, kpi_topic and quarantine_topic must be three topics; rename one")
    needed = {"kafka": ["bootstrap.servers"], "aerospike": ["hosts", "namespace"]}
    for setting, backend, table in (("log", config.log, config.kafka), ("store", config.store, config.aerospike)):
        for key in needed.get(backend, []):
            if not table.get(key):
                name = f"{backend}.{key}"
                raise Misconfigured(
                    f"{setting} is {backend!r} but {name} is not set: set it under [{backend}] or as {variable(name)}"
                )
