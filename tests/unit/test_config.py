"""The settings: which layer wins, what is refused and with which words, and what is never printed."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from projector.config import DEFAULT_FILE, OWNED, Config, accepted, load, shown, variable
from projector.errors import Misconfigured


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty working directory, and none of our variables."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("PROJECTOR_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        path = tmp_path / DEFAULT_FILE
        path.write_text(text)
        return path

    return write


def origins(config: Config) -> dict[str, tuple[Any, str]]:
    return {value.name: (value.value, value.origin) for value in config.values()}


def refusal(file: Path | None = None, flags: dict[str, Any] | None = None) -> str:
    with pytest.raises(Misconfigured) as caught:
        load(file, flags)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_without_anything_the_defaults_are_in_force() -> None:
    """No file, no variable, no flag: every setting has its default, and says so."""
    config = load()
    assert config == Config()
    assert (config.log, config.store, config.file) == ("embedded", "embedded", Path("projector.db"))
    assert {origin for _, origin in origins(config).values()} == {"default"}


def test_flag_over_environment_over_file_over_default(
    write: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each layer wins over those before it, setting by setting, and the winner is named."""
    write("batch_ms = 1\nbatch_records = 1\nrepublish_ms = 101")
    monkeypatch.setenv("PROJECTOR_BATCH_RECORDS", "2")
    monkeypatch.setenv("PROJECTOR_REPUBLISH_MS", "102")
    held = origins(load(flags={"republish_ms": "103"}))
    assert held["batch_ms"] == (1, "file projector.toml")
    assert held["batch_records"] == (2, "environment")
    assert held["republish_ms"] == (103, "flag")
    assert held["group"] == ("projector", "default")


def test_client_properties_merge_one_by_one(write: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable for one property leaves the file's other properties in force, in nested tables too."""
    write('[kafka]\nbootstrap.servers = "file:1"\n"client.id" = "file"\n[aerospike.tls]\nenable = true\ncafile = "a"')
    monkeypatch.setenv("PROJECTOR_KAFKA_CLIENT_ID", "environment")
    monkeypatch.setenv("PROJECTOR_AEROSPIKE_TLS", '{"cafile": "b"}')
    config = load(flags={"kafka.linger.ms": "3", "aerospike.rack_id": "7"})
    assert config.kafka == {"bootstrap.servers": "file:1", "client.id": "environment", "linger.ms": "3"}
    assert config.aerospike == {"tls": {"enable": True, "cafile": "b"}, "rack_id": 7}
    held = origins(config)
    assert held["kafka.bootstrap.servers"] == ("file:1", "file projector.toml")
    assert held["kafka.client.id"] == ("environment", "environment")
    assert held["aerospike.tls.cafile"] == ("b", "environment")
    assert held["aerospike.rack_id"] == (7, "flag")


def test_a_variable_may_hold_several_properties(monkeypatch: pytest.MonkeyPatch) -> None:
    """PROJECTOR_KAFKA is a JSON object of properties."""
    monkeypatch.setenv("PROJECTOR_KAFKA", '{"bootstrap.servers": "one:1", "socket.nagle.disable": true}')
    assert load().kafka == {"bootstrap.servers": "one:1", "socket.nagle.disable": True}


@pytest.mark.parametrize("name", ["hosts", "namespace", "user", "password"])
def test_text_properties_stay_text(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A user or password of digits is not made a number on its way to the client."""
    monkeypatch.setenv(f"PROJECTOR_AEROSPIKE_{name.upper()}", "0123")
    assert load(flags={f"aerospike.{name}": "123"}).aerospike == {name: "123"}
    assert load().aerospike == {name: "0123"}


@pytest.mark.parametrize("table", ["kafka", "aerospike"])
def test_owned_properties_are_refused_by_name(
    table: str, write: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the protocol owns can be set in no layer, and the refusal names property and place."""
    assert OWNED[table]
    for key in OWNED[table]:
        assert refusal(flags={f"{table}.{key}": "1"}).startswith(f"flag: {table}.{key} belongs to the protocol")
        assert refusal(write(f'[{table}]\n{key} = "1"')).endswith(
            f"projector.toml: {table}.{key} belongs to the protocol, which sets it; remove it"
        )
        DEFAULT_FILE.unlink()
        if table == "kafka" and "_" in key:
            continue  # no variable can say it: there "_" stands for "."
        with monkeypatch.context() as environment:
            environment.setenv(variable(f"{table}.{key}"), "1")
            assert refusal().startswith(f"{variable(f'{table}.{key}')} belongs to the protocol")


def test_the_users_timeouts_are_not_owned() -> None:
    """Address and timeouts are the user's."""
    theirs = {"bootstrap.servers", "transaction.timeout.ms", "session.timeout.ms", "max.poll.interval.ms"}
    assert not theirs & OWNED["kafka"]
    assert load(flags={f"kafka.{name}": "10000" for name in theirs}).kafka.keys() == theirs


def test_owned_tables_are_refused_from_the_inside(write: Callable[[str], Path]) -> None:
    """A property inside a table that the protocol owns is refused as well."""
    write("[aerospike.policies.read]\ntotal_timeout = 1")
    assert refusal().startswith("file projector.toml: aerospike.policies belongs to the protocol")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"batch_records": "0"}, "flag: batch_records is '0'; give a whole number from 1 to 1000000"),
        ({"batch_records": 1_000_001}, "flag: batch_records is 1000001; give a whole number from 1 to 1000000"),
        ({"batch_ms": "60001"}, "flag: batch_ms is '60001'; give a whole number from 1 to 60000"),
        ({"batch_ms": True}, "flag: batch_ms is True; give a whole number from 1 to 60000"),
        ({"batch_ms": "soon"}, "flag: batch_ms is 'soon'; give a whole number from 1 to 60000"),
        ({"republish_ms": "99"}, "flag: republish_ms is '99'; give a whole number from 100 to 3600000"),
        ({"settle_ms": "-1"}, "flag: settle_ms is '-1'; give auto or a whole number from 0 to 600000"),
        ({"settle_ms": "later"}, "flag: settle_ms is 'later'; give auto or a whole number from 0 to 600000"),
        ({"log": "redis"}, "flag: log is 'redis'; give embedded or kafka"),
        ({"allow_volatile_store": "perhaps"}, "flag: allow_volatile_store is 'perhaps'; give true or false"),
        ({"input_topic": "a b"}, "flag: input_topic is 'a b'; give 1 to 249 characters [A-Za-z0-9._-]"),
        ({"group": ""}, "flag: group is ''; give 1 to 200 characters"),
        ({"file": ""}, "flag: file is ''; give the path of a file"),
        ({"kpi_topic": "edge-to-core"}, "input_topic, kpi_topic and quarantine_topic must be three topics; rename one"),
        ({"bacth_ms": "1"}, "flag: bacth_ms: no such setting; did you mean batch_ms?"),
        ({"zzz": "1"}, "flag: zzz: no such setting; remove it"),
        ({"kafka": "x"}, "flag: kafka is a table of client properties; write [kafka]"),
        (
            {"aerospike.a": "1", "aerospike.a.b": "2"},
            "aerospike.a.b: a is set both as a value and as a table; keep one",
        ),
    ],
)
def test_a_wrong_value_is_refused_with_the_way_out(flags: dict[str, Any], words: str) -> None:
    """One line: the place, the value, and what would be accepted."""
    assert refusal(flags=flags) == words


@pytest.mark.parametrize("value", ["auto", 0, 1, "350", 600_000])
def test_settle_ms_is_auto_or_milliseconds(value: object) -> None:
    """`auto`, or a whole number from 0 on."""
    assert load(flags={"settle_ms": value}).settle_ms == (value if value == "auto" else int(str(value)))


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("PROJECTOR_BATCH_MS", "0", "PROJECTOR_BATCH_MS is '0'; give a whole number from 1 to 60000"),
        ("PROJECTOR_BATCH_MX", "1", "PROJECTOR_BATCH_MX: no such setting; did you mean PROJECTOR_BATCH_MS?"),
        ("PROJECTOR_ZZZ", "1", "PROJECTOR_ZZZ: no such setting; unset it"),
        ("PROJECTOR_KAFKA", "{", "PROJECTOR_KAFKA is not JSON; give an object, or one variable for each property"),
        ("PROJECTOR_CONFIG", "no.toml", "no.toml: no such file; create it, or leave out --config and PROJECTOR_CONFIG"),
        ("PROJECTOR_CONFIG", "/", "/: Is a directory; make it a readable file"),
    ],
)
def test_a_wrong_variable_is_refused_by_its_name(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: str
) -> None:
    """A mistyped variable is not ignored: the default would count on in silence."""
    monkeypatch.setenv(name, value)
    assert refusal() == words


def test_variables_that_kubernetes_sets_are_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Service named "projector" puts variables with our prefix into every pod."""
    for name in ("PROJECTOR_SERVICE_HOST", "PROJECTOR_PORT", "PROJECTOR_PORT_9090_TCP_ADDR"):
        monkeypatch.setenv(name, "10.0.0.1")
    assert load() == Config()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("batch_mss = 3", "no such setting; did you mean batch_ms?"),
        ("batch_ms = true", "batch_ms is True; give a whole number"),
        ("batch_ms", "not TOML"),
        ("\xff", "not TOML"),
        ("kafka = 3", "kafka is a table of client properties; write [kafka]"),
        ("[kafka]\nlinger.ms = [3]", "kafka.linger.ms is [3]; give for each property text, a number, true or false"),
    ],
)
def test_a_wrong_file_is_refused_by_its_name(tmp_path: Path, text: str, words: str) -> None:
    """Every refusal of something in the file names the file."""
    path = tmp_path / "other.toml"
    path.write_bytes(text.encode("latin-1"))
    assert str(path) in refusal(path)
    assert words in refusal(path)


@pytest.mark.parametrize(
    ("flags", "needed"),
    [
        ({"log": "kafka"}, "kafka.bootstrap.servers"),
        ({"store": "aerospike", "aerospike.namespace": "test"}, "aerospike.hosts"),
        ({"store": "aerospike", "aerospike.hosts": "one:3000"}, "aerospike.namespace"),
    ],
)
def test_a_backend_without_its_address_is_refused(flags: dict[str, Any], needed: str) -> None:
    """Named with the table and the variable that would give it."""
    words = refusal(flags=flags)
    assert needed in words
    assert variable(needed) in words


def test_config_of_one_file_is_named_by_the_variable(
    write: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """PROJECTOR_CONFIG names the file; an argument wins over it."""
    write("batch_ms = 1")
    (tmp_path / "two.toml").write_text("batch_ms = 2")
    (tmp_path / "three.toml").write_text("batch_ms = 3")
    monkeypatch.setenv("PROJECTOR_CONFIG", "two.toml")
    assert load().batch_ms == 2
    assert load(Path("three.toml")).batch_ms == 3


def test_config_reads_nothing_but_its_arguments(write: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """`Config(...)` does not look at file or environment: the layers are merged in one place."""
    write("batch_ms = 1")
    monkeypatch.setenv("PROJECTOR_BATCH_MS", "2")
    assert Config().batch_ms == 5
    with pytest.raises(ValidationError):
        Config(batch_ms=0)


SECRETS = [
    "kafka.sasl.password",
    "kafka.ssl.key.password",
    "kafka.ssl.keystore.password",
    "kafka.ssl.key.pem",
    "kafka.sasl.oauthbearer.client.secret",
    "kafka.sasl.oauthbearer.config",
    "aerospike.password",
    "aerospike.tls.keyfile_pw",
    "aerospike.api_token",
]


@pytest.mark.parametrize("name", SECRETS)
def test_secrets_are_never_shown(name: str) -> None:
    """Neither where settings are listed, nor in their repr, nor in an error about them."""
    config = load(flags={name: "hunter2"})
    assert origins(config)[name] == ("***", "flag")
    assert "hunter2" not in repr(config)
    assert "hunter2" not in repr(load(flags={name: "hunter2"}))


def test_a_wrong_secret_is_refused_without_showing_it(write: Callable[[str], Path]) -> None:
    """The refusal names the property and hides what was given."""
    write('[kafka]\nsasl.password = ["hunter2"]')
    words = refusal()
    assert "kafka.sasl.password is '***'" in words
    assert "hunter2" not in words


def test_a_password_in_an_address_is_hidden() -> None:
    """`scheme://user:password@host` keeps the user and the host."""
    assert shown("kafka.some.url", "https://me:hunter2@host/x") == "https://me:***@host/x"
    assert shown("kafka.bootstrap.servers", "one:9092,two:9092") == "one:9092,two:9092"


def test_each_setting_says_what_it_accepts() -> None:
    """The words of the errors and of the documentation come from the field itself."""
    for name, field in Config.model_fields.items():
        assert accepted(name)
        assert field.description
        assert field.description.endswith(".")
