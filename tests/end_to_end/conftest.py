"""One broker for all tests here; a pipeline and, where it is asked for, an Aerospike server for each."""

import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.aerospike_server import NOT_EXERCISED, Server, server_available
from tests.end_to_end.harness import SEED, Pipeline


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> random.Random:
    """Seeded by the run and the test; E2E_SEED repeats a run."""
    print(f"E2E_SEED={SEED}")
    return random.Random(f"{SEED}/{request.node.name}")


@pytest.fixture(scope="session")
def bootstrap() -> str:
    """The broker that the tests share."""
    from tests.kafka_broker import bootstrap

    return bootstrap()


@pytest.fixture
def aerospike_server() -> Iterator[Server]:
    """An Aerospike server for one test."""
    if shutil.which("asd") is None:
        pytest.skip(NOT_EXERCISED)
    server = Server()
    server.start()
    yield server
    server.remove()


@pytest.fixture
def make_pipeline(tmp_path: Path, rng: random.Random) -> Iterator[Callable[..., Pipeline]]:
    """Makes pipelines whose workers end with the test, and shows what these said where it fails."""
    made: list[Pipeline] = []

    def make(*arguments: object, **options: object) -> Pipeline:
        directory = tmp_path / str(len(made))
        directory.mkdir()
        pipeline = Pipeline(arguments[0], directory, rng, **options)  # type: ignore[arg-type]
        made.append(pipeline)
        return pipeline

    yield make
    for pipeline in made:
        pipeline.close()
        for worker in pipeline.workers:
            print(f"--- a worker, exit code {worker.process.returncode}:\n{worker.said[-1500:]}")


@pytest.fixture
def pipeline(make_pipeline: Callable[..., Pipeline], bootstrap: str) -> Pipeline:
    """On the shared broker and the embedded store, prepared."""
    return make_pipeline(bootstrap).prepare()


@pytest.fixture(params=["embedded", pytest.param("aerospike", marks=pytest.mark.long)])
def either(request: pytest.FixtureRequest, make_pipeline: Callable[..., Pipeline], bootstrap: str) -> Pipeline:
    """On the shared broker and each store, prepared; on Aerospike in the long run."""
    if request.param == "embedded":
        return make_pipeline(bootstrap).prepare()
    server: Server = request.getfixturevalue("aerospike_server")
    return make_pipeline(bootstrap, aerospike=server.properties).prepare()


@pytest.fixture
def case(request: pytest.FixtureRequest, make_pipeline: Callable[..., Pipeline], bootstrap: str) -> Pipeline:
    """On the best store that is here, prepared."""
    if not server_available():
        print("on the embedded store")
        return make_pipeline(bootstrap).prepare()
    server: Server = request.getfixturevalue("aerospike_server")
    return make_pipeline(bootstrap, aerospike=server.properties).prepare()
