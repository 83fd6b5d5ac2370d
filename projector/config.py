"""The settings: what may be set, where values come from, and what is refused.

Four layers, the later over the earlier: default, file (`projector.toml`), environment (`PROJECTOR_...`), flag.
A whole setting is taken from one layer; of `[kafka]` and `[aerospike]` each property is.
Every error is `Misconfigured`: one line that names the place, what is wrong there, and the way out.
"""

import difflib
import json
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field, PrivateAttr, ValidationError
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict
from pydantic_settings.exceptions import SettingsError

from projector.backends import aerospike_properties, kafka_properties
from projector.errors import Misconfigured

DEFAULT_FILE = Path("projector.toml")
PREFIX = "PROJECTOR_"
CONFIG_VARIABLE = "PROJECTOR_CONFIG"
TABLES = ("kafka", "aerospike")
NEEDED = {"kafka": ("bootstrap.servers",), "aerospike": ("hosts", "namespace")}
TEXT_PROPERTIES = ("hosts", "namespace", "user")
OWNED: Mapping[str, frozenset[str]] = {
    "kafka": kafka_properties.OWNED_PROPERTIES,
    "aerospike": aerospike_properties.OWNED_PROPERTIES,
}

_SECRET = re.compile(r"passw|passphrase|_pw$|secret|token|credential|private|\.pem$|jaas|oauthbearer\.config", re.I)
_SERVICE_LINK = re.compile(r"PROJECTOR_(PORT|SERVICE)(_|$)")  # Kubernetes sets these for a Service named "projector"

Layer: TypeAlias = dict[str, Any]


def _no_bool(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("give a number, not true or false")
    return value


def _a_file(path: Path) -> Path:
    if not path.name:
        raise ValueError("not a file")
    return path


Whole = Annotated[int, BeforeValidator(_no_bool)]
Topic = Annotated[str, Field(min_length=1, max_length=249, pattern=r"^[A-Za-z0-9._-]+$")]


class Config(BaseSettings):
    """What is in force. `load` reads all layers; `Config(...)` takes its arguments and the defaults, nothing else."""

    model_config = SettingsConfigDict(extra="forbid", frozen=True, env_prefix=PREFIX)

    log: Literal["embedded", "kafka"] = Field(
        default="embedded",
        description="Where events come from and totals go to: `embedded` (one SQLite file) or `kafka`.",
    )
    store: Literal["embedded", "aerospike"] = Field(
        default="embedded",
        description="Where campaigns and the ledger are kept: `embedded` (one SQLite file) or `aerospike`.",
    )
    file: Annotated[Path, AfterValidator(_a_file)] = Field(
        default=Path("projector.db"),
        description="The SQLite file of the embedded log and store. A relative path starts at the working directory.",
    )
    input_topic: Topic = Field(
        default="edge-to-core", description="The topic of ad events, as Aerospike's connector writes it."
    )
    kpi_topic: Topic = Field(default="subscription-events", description="The topic that new totals are published to.")
    quarantine_topic: Topic = Field(
        default="projector-quarantine",
        description="The topic for parked and rejected records, with their original bytes.",
    )
    group: str = Field(
        default="projector",
        min_length=1,
        max_length=200,
        description="Consumer group of generation 1; `<group>-<slot>` names a worker's transactions.",
    )
    source_set: str = Field(
        default="events", min_length=1, max_length=63, description="Records of any other Aerospike set are rejected."
    )
    batch_records: Whole = Field(default=10_000, ge=1, le=1_000_000, description="Most records in one batch.")
    batch_ms: Whole = Field(
        default=5, ge=1, le=60_000, description="Longest wait, in milliseconds, for a batch to become full."
    )
    republish_ms: Whole = Field(
        default=5_000,
        ge=100,
        le=3_600_000,
        description="Milliseconds after a row's latest publication at which a busy worker publishes its last word.",
    )
    settle_ms: Literal["auto"] | Annotated[int, Field(ge=0, le=600_000), BeforeValidator(_no_bool)] = Field(
        default="auto",
        description="Milliseconds that a write stays in the store before its offset is committed. "
        "`auto`: 0 where an acknowledged write is safe, else twice the namespace's `flush-max-ms`, + 250. "
        "Less is refused.",
    )
    allow_volatile_store: bool = Field(
        default=False,
        description="Run although the store cannot promise to keep a write, or `settle_ms` is too short for that. "
        "Counts may then be lost.",
    )
    page_ids: Whole = Field(
        default=1_024, ge=1, le=100_000, description="About how many event ids a page of the ledger's archive holds."
    )
    row_bytes_max: Literal["auto"] | Annotated[int, Field(ge=4_096, le=8_388_608), BeforeValidator(_no_bool)] = Field(
        default="auto",
        description="Bytes that a campaign row may grow to while its pages settle; at most 0.8 of the store's limit. "
        "`auto`: 4 MiB, or 0.8 of the store's limit where that is less.",
    )
    index_mib_max: Whole = Field(
        default=2_048,
        ge=1,
        le=1_048_576,
        description="Mebibytes of memory for the index of archived ids: 8 bytes an id.",
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
            for key, value in properties(held):
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
    if isinstance(value, list):
        return [shown(name, inner) for inner in value]
    if isinstance(value, str):
        return re.sub(r"(://[^/@\s]*:)[^/@\s]*@", r"\1***@", value)
    return value


def load(file: Path | None = None, flags: Mapping[str, Any] | None = None) -> Config:
    """The settings in force. `file` None: `PROJECTOR_CONFIG`, else `projector.toml` if it is there.

    `flags` are settings by name; of the tables, each property as `kafka.<property>`. Raises `Misconfigured`.
    """
    named = file or (Path(os.environ[CONFIG_VARIABLE]) if os.environ.get(CONFIG_VARIABLE) else None)
    layers = [
        (f"file {named or DEFAULT_FILE}", _from_file(named)),
        ("environment", _from_environment()),
        ("flag", dict(flags or {})),
    ]
    merged: Layer = {}
    origins: dict[str, str] = {}
    for origin, layer in layers:
        for name, value in _flat(layer, origin):
            merged[name] = value
            origins[name] = origin
    try:
        config = Config(**_nested(merged))
    except ValidationError as error:
        raise Misconfigured(_wrong_value(error, origins)) from None
    _check_together(config)
    config._origins.update(origins)
    return config


def variable(name: str) -> str:
    """The environment variable of a setting or of a `kafka.` or `aerospike.` property."""
    return PREFIX + name.replace(".", "_").upper()


def accepted(name: str) -> str:
    """What may be given for a setting, in words."""
    schema = Config.model_json_schema()["properties"][name]
    return " or ".join(_accepted(part) for part in schema.get("anyOf", [schema]))


def _accepted(schema: Mapping[str, Any]) -> str:
    match schema:
        case {"const": value}:
            return str(value)
        case {"enum": values}:
            return " or ".join(values)
        case {"type": "integer"}:
            return f"a whole number from {schema['minimum']} to {schema['maximum']}"
        case {"type": "boolean"}:
            return "true or false"
        case {"format": "path"}:
            return "the path of a file"
        case {"type": "string", "pattern": pattern}:
            return f"{schema['minLength']} to {schema['maxLength']} characters {pattern.strip('^+$')}"
        case {"type": "string"}:
            return f"{schema['minLength']} to {schema['maxLength']} characters"
    return "for each property text, a number, true or false"


def _from_file(named: Path | None) -> Layer:
    path = named or DEFAULT_FILE
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except FileNotFoundError:
        if named is None:
            return {}
        raise Misconfigured(f"{path}: no such file; create it, or leave out --config and {CONFIG_VARIABLE}") from None
    except OSError as error:
        raise Misconfigured(f"{path}: {error.strerror}; make it a readable file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Misconfigured(f"{path}: not TOML: {error}; correct that line") from None


def _from_environment() -> Layer:
    source = EnvSettingsSource(Config, env_nested_delimiter="_", env_nested_max_split=1)
    known = [variable(name) for name in Config.model_fields] + [CONFIG_VARIABLE]
    tables = tuple(f"{variable(table)}_" for table in TABLES)
    for name in map(str.upper, source.env_vars):
        ours = name.startswith(PREFIX) and not _SERVICE_LINK.match(name)
        if ours and name not in known and not name.startswith(tables):
            close = _meant(name.removeprefix(PREFIX), [each.removeprefix(PREFIX) for each in known], PREFIX)
            raise Misconfigured(f"{name}: no such setting; {close or 'unset it'}")
    try:
        layer: Layer = source()
    except SettingsError as error:
        wrong = next(variable(table) for table in TABLES if f'"{table}"' in str(error))
        raise Misconfigured(f"{wrong} is not JSON; give an object, or one variable for each property") from None
    if isinstance(layer.get("kafka"), dict):
        layer["kafka"] = {key.replace("_", "."): value for key, value in layer["kafka"].items()}
    return layer


def _flat(layer: Layer, origin: str) -> Iterator[tuple[str, Any]]:
    """The settings of a layer by full name: those of the tables as `kafka.<property>`. Unknown and owned ones raise."""
    for name, value in layer.items():
        table, dot, key = name.partition(".")
        if table not in TABLES:
            if name not in Config.model_fields:
                close = _meant(name, list(Config.model_fields))
                raise Misconfigured(f"{_place(name, origin)}: no such setting; {close or 'remove it'}")
            yield name, value
        elif not dot and not isinstance(value, dict):
            raise Misconfigured(f"{_place(name, origin)} is a table of client properties; write [{name}]")
        else:
            given = {key: value} if dot else value
            for inner, held in properties(given if table == "kafka" or origin.startswith("file") else _typed(given)):
                if owned := _owned(table, inner):
                    place = _place(f"{table}.{owned}", origin)
                    raise Misconfigured(f"{place} belongs to the protocol, which sets it; remove it")
                yield f"{table}.{inner}", held


def _nested(flat: Layer) -> Layer:
    """The arguments of `Config`: Kafka's properties have dots in their names, the Aerospike client's are nested."""
    nested: Layer = {table: {} for table in TABLES}
    for name, value in flat.items():
        table, dot, key = name.partition(".")
        if not dot:
            nested[name] = value
        elif table == "kafka":
            nested[table][key] = value
        else:
            *path, last = key.split(".")
            inner = nested[table]
            for step in path:
                inner = inner.setdefault(step, {})
                if not isinstance(inner, dict):
                    raise Misconfigured(f"{name}: {step} is set both as a value and as a table; keep one")
            inner[last] = value
    return nested


def _typed(table: Layer) -> Layer:
    """Variables and flags are text; the Aerospike client wants numbers, booleans and tables: those that are JSON."""
    typed: Layer = {}
    for key, value in table.items():
        typed[key] = value
        if isinstance(value, str) and key not in TEXT_PROPERTIES and not _SECRET.search(key):
            with suppress(ValueError):
                parsed = json.loads(value)
                typed[key] = parsed if isinstance(parsed, int | float | dict) else value
    return typed


def properties(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The properties of a table by dotted name. (TOML reads `bootstrap.servers = ...` as a table in a table.)"""
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from properties(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _owned(table: str, key: str) -> str:
    """The property, or the table that it stands in, if the protocol owns it."""
    steps = key.split(".")
    return next((start for n in range(len(steps)) if (start := ".".join(steps[: n + 1])) in OWNED[table]), "")


def _place(name: str, origin: str) -> str:
    if origin == "environment":
        return variable(name)
    return f"{origin}: {name}"


def _meant(name: str, known: list[str], prefix: str = "") -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {prefix}{close[0]}?" if close else ""


def _wrong_value(error: ValidationError, origins: Mapping[str, str]) -> str:
    first = error.errors(include_url=False, include_context=False)[0]
    setting = str(first["loc"][0])
    name = f"{setting}.{first['loc'][1]}" if setting in TABLES and len(first["loc"]) > 1 else setting
    place = _place(name, origins.get(name, "default"))
    return f"{place} is {shown(name, first['input'])!r}; give {accepted(setting)}"


def _check_together(config: Config) -> None:
    topics = {config.input_topic, config.kpi_topic, config.quarantine_topic}
    if len(topics) < 3:
        raise Misconfigured("input_topic, kpi_topic and quarantine_topic must be three topics; rename one")
    for setting, backend, table in (("log", config.log, config.kafka), ("store", config.store, config.aerospike)):
        for key in NEEDED.get(backend, ()):
            if not table.get(key) or not isinstance(table[key], str):
                name = f"{backend}.{key}"
                way_out = f"set it in [{backend}] or as {variable(name)}"
                raise Misconfigured(f"{setting} is {backend}, but {name} is not given as text; {way_out}")
