"""A small FineCap test split, and a randomly initialised FineViT-VL whose every part is real."""

import io
import json
import os
from pathlib import Path
from typing import Any, cast

import datasets.config
import pytest
from datasets import Dataset
from PIL import Image, ImageDraw

from finecap.features import FINECAP_FEATURES
from finecap.records import Record, region, validate_record

WIDTH, HEIGHT = 112, 84
COLOURS = ("red", "green", "blue", "white")


@pytest.fixture(autouse=True, scope="session")
def _own_datasets_cache(tmp_path_factory):
    """Keep the rows that tests load out of the user's cache."""
    folder = tmp_path_factory.mktemp("datasets")
    previous = datasets.config.HF_DATASETS_CACHE
    datasets.config.HF_DATASETS_CACHE = folder
    os.environ["HF_DATASETS_CACHE"] = str(folder)
    yield
    datasets.config.HF_DATASETS_CACHE = previous
    del os.environ["HF_DATASETS_CACHE"]


def _record(index: int) -> dict[str, Any]:
    """A picture with one coloured rectangle, and a question of each kind that no other record asks."""
    box = [4 + 3 * index, 10 + index, 50 + 4 * index, 60 + index]
    picture = Image.new("RGB", (WIDTH, HEIGHT), (230, 230 - 9 * index, 210))
    ImageDraw.Draw(picture).rectangle(box, fill=COLOURS[index % 4])
    encoded = io.BytesIO()
    picture.save(encoded, "PNG")
    colour = COLOURS[index % 4]
    return {
        "id": f"record-{index}",
        "image": {"bytes": encoded.getvalue(), "path": None},
        "width": WIDTH,
        "height": HEIGHT,
        "source": "tests",
        "license": "Apache-2.0",
        "split": "test",
        "global_caption": None,
        "captioner": None,
        "regions": [region(box, "object", colour)],
        "qa": [
            {"question": f"Total of page {index}?", "answers": [f"{index}7.50", f"${index}7.50"], "kind": "doc"},
            {"question": f"Height of bar {index}?", "answers": [str(100 + 20 * index)], "kind": "chart"},
            {"question": f"rectangle number {index}", "answers": [json.dumps(box)], "kind": "grounding"},
            {"question": f"colour of shape {index}?", "answers": [f"{colour} {index}"], "kind": "easyvqa"},
        ],
        "captions": [],
        "provenance": None,
    }


@pytest.fixture(scope="session")
def make_record():
    """index -> a FineCap record; see `_record`."""
    return _record


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> Path:
    """Ten records as two test shards in the Hub's layout."""
    folder = tmp_path_factory.mktemp("corpus")
    records = [_record(index) for index in range(10)]
    for record in records:
        validate_record(cast(Record, record))
    (folder / "data").mkdir()
    for shard in range(2):
        rows = Dataset.from_list(records[5 * shard : 5 * shard + 5], features=FINECAP_FEATURES)
        rows.to_parquet(folder / "data" / f"test-{shard:05d}-of-00002.parquet")
    return folder


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory) -> Path:
    """A folder with an untrained nano model."""
    from tests.support.vl_models import save_untrained_nano

    return save_untrained_nano(tmp_path_factory.mktemp("model"))


def _truths(corpus: Path) -> dict[str, str]:
    """Question as asked -> the answer that FineViT-VL is trained to give."""
    import pyarrow.parquet as pq

    from finecap.boxes import format_box
    from finecap.tasks.wording import question_prompt

    answers = {}
    for path in sorted((corpus / "data").glob("test-*.parquet")):
        for record in pq.read_table(path, columns=["qa", "width", "height"]).to_pylist():
            for item in record["qa"]:
                answer = item["answers"][0]
                if item["kind"] == "grounding":
                    answer = format_box(json.loads(answer), record["width"], record["height"])
                answers[question_prompt(item["kind"], item["question"])] = answer
    return answers


@pytest.fixture
def answering(monkeypatch):
    """tell -> every loaded model answers `tell(picture, question)`; returns the list of questions that are asked.

    Model, processor and chat template stay real: the question is read back out of the rendered prompt.
    """
    from finevit_vl.answering import Answer, AnswerGenerator, conversation_images

    def use(tell):
        asked = []

        def answer(self, conversations, **_):
            answers = []
            for conversation in conversations:
                prompt = self.processor.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True)
                question = prompt.split("<|vision_end|>")[1].split("<|im_end|>")[0]
                asked.append(question)
                ids = self.processor.tokenizer(tell(conversation_images(conversation)[0], question))["input_ids"]
                decode = self.processor.tokenizer.decode
                answers.append(Answer(decode(ids, skip_special_tokens=True), decode(ids), prompt, len(ids)))
            return answers

        monkeypatch.setattr(AnswerGenerator, "__call__", answer)
        return asked

    return use


@pytest.fixture
def oracle(answering, corpus):
    """Make every loaded model answer from a table; returns the table, filled with the truth."""
    answers = _truths(corpus)
    answering(lambda picture, question: answers[question])
    return answers
