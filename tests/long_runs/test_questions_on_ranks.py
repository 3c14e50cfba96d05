"""lmms-eval's own command line on two CPU processes gives the scores, and the answers, of one."""

import json

import pytest

from tests.finevit_eval.conftest import model_dir  # noqa: F401  (a fixture)
from tests.support.hub_folders import write_hub_folders
from tests.support.launching import finish, launch

TASKS = ("docvqa_val", "ocrbench", "refcoco_bbox_rec_val")


def run(model, hub, out, processes):
    arguments = {
        "model": "finevit_vl",
        "model_args": f"pretrained={model},device=cpu",
        "tasks": ",".join(TASKS),
        "batch_size": 2,
        "output_path": out,
    }
    entry = ("-m", "lmms_eval", "--log_samples")
    finish(launch(launcher=False, processes=processes, entry=entry, smallest={}, cwd=hub, **arguments))
    scores = json.loads(next(out.rglob("*_results.json")).read_text())["results"]
    answers = {task: _answers(next(out.rglob(f"*samples_{task}.jsonl"))) for task in TASKS}
    return {task: {name: value for name, value in scores[task].items() if "," in name} for task in TASKS}, answers


def _answers(path):
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return {line["doc_id"]: line["filtered_resps"] for line in lines}


@pytest.mark.slow
def test_two_processes_give_the_scores_of_one(model_dir, tmp_path):  # noqa: F811
    hub = write_hub_folders(tmp_path / "hub")
    ...
