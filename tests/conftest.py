"""What tests of more than one package share."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from PIL import ImageFile

from tests.support.paths import NANO

# `make test` draws the same examples every time; `make fuzz` draws fresh ones, and says how to repeat a find.
hypothesis.settings.register_profile("fixed", derandomize=True, database=None, deadline=None)
hypothesis.settings.register_profile("fuzz", max_examples=1000, database=None, deadline=None, print_blob=True)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that draw their examples are marked `fuzz`: properties, and the files named test_fuzz.py."""
    for item in items:
        function = getattr(item, "obj", None)
        if hypothesis.is_hypothesis_test(function) or item.path.name == "test_fuzz.py":
            item.add_marker(pytest.mark.fuzz)


@pytest.fixture(autouse=True)
def _truncated_pictures_are_errors(monkeypatch):
    """Pillow's own default; importing lmms-eval, as some tests of a process do, turns it off for the whole process."""
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", False)


@pytest.fixture(scope="session")
def nano_corpus(tmp_path_factory) -> Path:
    """48 records of the embedded corpus at difficulty nano, twelve of each kind, in the Hub's layout."""
    import datasets

    from finecap.corpus.build import generate
    from finecap.features import FINECAP_FEATURES

    out = tmp_path_factory.mktemp("nano_corpus")
    rows = [
        generate(kind, index, 0, "train", "nano")
        for index in range(12)
        for kind in ("doc", "chart", "scene", "easyvqa")
    ]
    (out / "data").mkdir()
    records = datasets.Dataset.from_list(rows, features=FINECAP_FEATURES)
    records.to_parquet(str(out / "data" / "train-00000-of-00001.parquet"))
    return out


@pytest.fixture(scope="session")
def loss_ranks(tmp_path_factory) -> list[dict[str, float]]:
    """What each of four gloo ranks found, by case, see tests/support/loss_ranks.py."""
    out = tmp_path_factory.mktemp("loss_ranks")
    script = Path(__file__).parent / "support" / "loss_ranks.py"
    environment = {**os.environ, "PYTHONPATH": str(script.parents[2])}
    subprocess.run([sys.executable, str(script), str(out)], check=True, timeout=300, env=environment)
    return [json.loads((out / f"rank{rank}.json").read_text()) for rank in range(4)]


@pytest.fixture(scope="session")
def nano_server(tmp_path_factory) -> Iterator[str]:
    """Base URL of a real `finevit serve` of the nano checkpoint, in a process of its own on a free port; clients call
    the model `str(NANO)`.
    """
    log = tmp_path_factory.mktemp("serve") / "serve.log"
    command = [sys.executable, "-m", "finevit_cli", "serve", str(NANO), "--device", "cpu", "--host", "127.0.0.1"]
    with log.open("wb") as out:
        process = subprocess.Popen([*command, "--port", "0"], stdout=out, stderr=subprocess.STDOUT)
    try:
        yield f"{_address(process, log)}/v1"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=30)


def _address(process: subprocess.Popen, log: Path) -> str:
    """Where uvicorn listens, once it says so."""
    for _ in range(1200):
        if found := re.search(r"running on (http://\S+)", log.read_text()):
            return found[1]
        if process.poll() is not None:
            break
        time.sleep(0.1)
    raise RuntimeError(f"the server did not start: {log.read_text()[-2000:]}")
