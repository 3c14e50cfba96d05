"""A packed run and the dataset that is published from it."""

import shutil

import pytest

from finecap.engine.reporting.publish import publish
from finecap.engine.running.one_shard import Run
from finecap.engine.running.store import Store
from tests.support.packed_run import make_run


@pytest.fixture(scope="session")
def packed(tmp_path_factory):
    with pytest.MonkeyPatch.context() as monkeypatch:
        return make_run(tmp_path_factory.mktemp("run"), monkeypatch, webdataset=True)


@pytest.fixture(scope="session")
def published(packed):
    """The dataset folder, for tests that only look at it."""
    return publish(packed)


@pytest.fixture
def run(packed, tmp_path):
    """The packed run in a folder of the test's own."""
    shutil.copytree(packed.store.out, tmp_path / "run")
    return Run(packed.recipe, Store(tmp_path / "run"), packed.shards)
