"""lmms-eval's own command line in two CPU processes gives the scores, and the answers, of one."""

import json
import os
import subprocess
import sys

import pytest

from finevit_eval.run import evaluate
from tests.support.hub_folders import DOCVQA, docvqa_rows, write_dataset, write_hub_folders
from tests.support.paths import ROOT
from tests.support.vl_models import save_untrained_nano

TASKS = ("docvqa_val", "refcoco_bbox_rec_val")
"""Six questions, which two processes share evenly, and seven, which they do not."""


def lmms_eval(model, hub, out, processes):
    """Scores and answers of `python -m lmms_eval` in a folder that holds the data."""
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", str(processes), "--standalone"]
    command = [sys.executable, *(launcher if processes > 1 else []), "-m", "lmms_eval", "--model", "finevit_vl"]
    command += ["--model_args", f"pretrained={model},device=cpu", "--tasks", ",".join(TASKS), "--batch_size", "2"]
    command += ["--output_path", str(out), "--log_samples"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "ACCELERATE_USE_CPU": "1"}
    environment |= {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=hub, env=environment, capture_output=True, text=True, check=False)
    found = next(out.rglob("*_results.json"), None)
    assert found is not None, done.stdout + done.stderr  # lmms-eval ends with 0 whatever fails
    results = json.loads(found.read_text())["results"]
    scores = {task: {name: value for name, value in results[task].items() if "," in name} for task in TASKS}
    return scores, {task: _answers(next(out.rglob(f"*_samples_{task}.jsonl"))) for task in TASKS}


def _answers(path):
    lines = map(json.loads, path.read_text().splitlines())
    return {line["doc_id"]: line["filtered_resps"] for line in lines}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_untrained_nano(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def hub(model, tmp_path_factory):
    """Of the pages' truths every other one is what the untrained model says, so that its score is neither 0 nor 1."""
    folder = write_hub_folders(tmp_path_factory.mktemp("hub"))
    out = tmp_path_factory.mktemp("out")
    evaluate(model, folder, out, ["docvqa_val"])
    said = [json.loads(line)["prediction"] for line in (out / "samples_docvqa_val.jsonl").read_text().splitlines()]
    rows = [{**row, "answers": [said[i]] if i % 2 else row["answers"]} for i, row in enumerate(docvqa_rows())]
    write_dataset(folder / "lmms-lab-encoder/DocVQA", {"DocVQA": {"validation": (rows, DOCVQA)}})
    return folder


@pytest.mark.slow
def test_two_processes_give_the_scores_of_one(model, hub, tmp_path):
    scores, answers = lmms_eval(model, hub, tmp_path / "one", 1)
    assert scores["docvqa_val"]["anls,none"] == pytest.approx(0.5)
    assert len({str(answer) for answer in answers["docvqa_val"].values()}) > 2
    assert [len(answers[task]) for task in TASKS] == [6, 7]
    assert lmms_eval(model, hub, tmp_path / "two", 2) == (scores, answers)
