"""docker-compose.yml and the Aerospike configuration that we ship fit the program."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from projector.config import load

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = ("migrate", "seed", "projector")


def setting(name: str) -> str:
    text = (ROOT / "deploy" / "aerospike.conf").read_text()
    values = re.findall(rf"^\s*{name}\s+(\S+)", text, flags=re.MULTILINE)
    assert len(values) == 1, f"{name} stands {len(values)} times"
    return str(values[0])


def test_the_services_are_there() -> None:
    """Both servers, both one-shot jobs, one projector."""
    assert set(SERVICES) == {"kafka", "aerospike", *OURS}


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_has_a_health_check_or_ends(name: str) -> None:
    """Who waits for a service can know that it is ready, or that it is done."""
    waited_for = {
        service["depends_on"][name]["condition"]
        for service in SERVICES.values()
        if name in service.get("depends_on", {})
    }
    assert "test" in SERVICES[name].get("healthcheck", {}) or waited_for == {"service_completed_successfully"}


@pytest.mark.parametrize("name", SERVICES)
def test_nothing_durable_is_in_an_unnamed_volume(name: str) -> None:
    """Each volume is declared by name, or is a file of this repository, read-only."""
    for volume in SERVICES[name].get("volumes", []):
        source, _, rest = volume.partition(":")
        if source.startswith("."):
            assert (ROOT / source).is_file()
            assert rest.endswith(":ro")
        else:
            assert source in COMPOSE["volumes"]


def test_what_must_outlive_a_container_is_mounted() -> None:
    """Kafka's log, Aerospike's data and its index definitions."""
    mounted = {volume.split(":")[1] for name in ("kafka", "aerospike") for volume in SERVICES[name]["volumes"]}
    assert SERVICES["kafka"]["environment"]["KAFKA_LOG_DIRS"] in mounted
    assert str(Path(setting("file")).parent) in mounted
    assert "/opt/aerospike/smd" in mounted


@pytest.mark.parametrize("name", OURS)
def test_the_settings_are_accepted(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every variable that it sets is a setting, and they name the real pair."""
    monkeypatch.chdir(tmp_path)
    for variable, value in SERVICES[name]["environment"].items():
        monkeypatch.setenv(variable, value)
    config = load()
    assert (config.log, config.store) == ("kafka", "aerospike")
    listeners = SERVICES["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"]
    assert f"PLAINTEXT://{config.kafka['bootstrap.servers']}" in listeners
    assert config.aerospike["hosts"] == "aerospike:3000"
    assert re.search(
        rf"^namespace {config.aerospike['namespace']} ", (ROOT / "deploy/aerospike.conf").read_text(), re.M
    )


def test_one_kafka_node_can_run_transactions() -> None:
    """With the defaults a single broker waits for three replicas of its transaction log."""
    environment = SERVICES["kafka"]["environment"]
    for name in ("OFFSETS_TOPIC_REPLICATION_FACTOR", "TRANSACTION_STATE_LOG_REPLICATION_FACTOR"):
        assert environment[f"KAFKA_{name}"] == 1
    assert environment["KAFKA_TRANSACTION_STATE_LOG_MIN_ISR"] == 1


def test_the_store_settles_soon_and_expires_nothing() -> None:
    """What the protocol relies on in the Aerospike configuration."""
    assert setting("flush-max-ms") == "25"
    assert setting("max-record-size") == "8M"
    assert setting("nsup-period") == "0"
    assert setting("default-ttl") == "0"


def test_the_example_file_is_accepted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """projector.toml.example works as it stands."""
    monkeypatch.chdir(tmp_path)
    config = load(ROOT / "projector.toml.example")
    assert (config.log, config.store) == ("kafka", "aerospike")
