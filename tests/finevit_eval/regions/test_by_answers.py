"""Whole runs over published layouts and FineCap records: an oracle gets 1, a shuffled or blind one what is known."""

import json

import pytest

from finecap.boxes import format_box
from finecap.tasks.wording import BOX_TO_TEXT, GROUNDING_PRE_PROMPT, TEXT_TO_BOX, question_prompt
from finevit_cli import main
from finevit_eval.kept import KEPT_FILE
from finevit_eval.result import Settings, combine
from finevit_eval.run import evaluate
from finevit_eval.shown import kept_pictures, pictures_file
from finevit_vl.answering import Answer, AnswerGenerator
from tests.finevit_eval.regions.conftest import HEIGHT, LEFT, RIGHT, WIDTH, two_rectangles
from tests.support.report_pictures import lacks_pictures

RECORD_TASKS = ["box_to_ocr", "ocr_to_box", "counting"]


def rows(path):
    import pyarrow.parquet as pq

    return pq.read_table(path).to_pylist()


@pytest.fixture
def answering(monkeypatch):
    """Make every loaded model answer by a table of prompts; a grey picture gets "nothing". Returns the table and the
    list of all that was asked.
    """
    table, asked = {}, []

    def from_table(self, conversations, **_):
        answers = []
        for conversation in conversations:
            picture, text = (part for part in conversation[0]["content"])
            asked.append(text["text"])
            grey = len(set(picture["image"].getdata())) == 1
            answer = "nothing" if grey else table[text["text"]]
            answers.append(Answer(answer, answer, text["text"], 1))
        return answers

    monkeypatch.setattr(AnswerGenerator, "__call__", from_table)
    return table, asked


def record_truths(folder):
    truths = {}
    for record in rows(folder / "data" / "test-00000-of-00001.parquet"):
        for one in record["regions"]:
            box = format_box(one["bbox"], record["width"], record["height"])
            truths[BOX_TO_TEXT.format(box=box)] = one["text"]
            truths[TEXT_TO_BOX.format(text=one["text"])] = box
        item = record["qa"][0]
        truths[question_prompt("count", item["question"])] = item["answers"][1]
    return truths


def referring_truths():
    """Prompts of RefCOCO's and Ref-L4's small layouts with the box as FineViT-VL writes it."""
    boxes = {}
    for number in range(6):
        for at, box in enumerate((LEFT, RIGHT)):
            colour, row = two_rectangles(number)[1][at], 2 * number + at
            written = format_box(box, WIDTH, HEIGHT)
            boxes |= {f"{colour} thing {row}": written, f"box {row} that is {colour}": written}
        boxes[f"The {two_rectangles(number)[1][0]} rectangle of picture {number}."] = format_box(LEFT, WIDTH, HEIGHT)
    return {GROUNDING_PRE_PROMPT + text: box for text, box in boxes.items()}


def test_an_oracle_reads_finds_and_counts_in_the_words_of_training(model_dir, text_records, answering, tmp_path):
    answering[0].update(record_truths(text_records))
    seeing = evaluate(model_dir, text_records, tmp_path / "seeing", RECORD_TASKS)
    tasks = seeing["tasks"]
    # "twice" and "Twice" stand in one picture: they can be read, but not asked for.
    assert [(tasks[name]["n"], tasks[name]["score"]) for name in RECORD_TASKS] == [(13, 1.0), (11, 1.0), (6, 1.0)]
    assert (tasks["box_to_ocr"]["cer"], tasks["box_to_ocr"]["wer"]) == (0.0, 0.0)
    assert tasks["ocr_to_box"]["iou"] > 0.9
    assert [tasks[name]["controls"]["shuffled"] < 0.5 for name in RECORD_TASKS] == [True] * 3
    assert tasks["counting"]["controls"]["most_common"] == pytest.approx(1 / 3)
    blind = evaluate(model_dir, text_records, tmp_path / "blind", RECORD_TASKS, Settings(blind=True))
    both = combine(seeing, blind)["tasks"]
    assert [both[name]["blind_score"] for name in RECORD_TASKS] == [0.0, 0.0, 0.0]
    assert lacks_pictures(tmp_path / "seeing") == {}
    sample = json.loads((tmp_path / "seeing" / "samples_ocr_to_box.jsonl").read_text().splitlines()[0])
    assert sample["iou"] > 0.9
    assert len(sample["truth"]) == len(sample["prediction"]) == 4
    picture = kept_pictures(pictures_file(tmp_path / "seeing", "ocr_to_box"))[sample["group"]]
    assert (picture.width, picture.height) == (WIDTH, HEIGHT)


def test_an_oracle_finds_what_expressions_mean(model_dir, refcoco_dir, ref_l4_dir, answering, tmp_path):
    answering[0].update(referring_truths())
    entry = evaluate(model_dir, refcoco_dir, tmp_path / "refcoco", ["refcoco"], Settings(split="testA"))["tasks"]
    assert (entry["refcoco"]["n"], entry["refcoco"]["score"]) == (24, 1.0)
    assert entry["refcoco"]["acc@0.5:0.95"] == 1.0
    assert entry["refcoco"]["controls"]["whole_picture"] == 0.0
    entry = evaluate(model_dir, ref_l4_dir, tmp_path / "ref_l4", ["ref_l4"], Settings(split="val"))["tasks"]["ref_l4"]
    assert (entry["n"], entry["score"], entry["small_acc@0.5"]) == (6, 1.0, 1.0)


def test_the_boxes_of_other_expressions_are_wrong(model_dir, refcoco_dir, answering, tmp_path):
    truths = referring_truths()
    swapped = {format_box(LEFT, WIDTH, HEIGHT): format_box(RIGHT, WIDTH, HEIGHT)}
    swapped |= {right: left for left, right in swapped.items()}
    answering[0].update({prompt: swapped[box] for prompt, box in truths.items()})
    tasks = evaluate(model_dir, refcoco_dir, tmp_path, ["refcoco"], Settings(split="val"))["tasks"]
    assert tasks["refcoco"]["score"] == 0.0


def test_ref_l4_reads_unpacked_pictures_as_well(model_dir, ref_l4_dir, answering, tmp_path):
    import shutil
    import tarfile

    answering[0].update(referring_truths())
    settings = Settings(split="val")
    packed = evaluate(model_dir, ref_l4_dir, tmp_path / "packed", ["ref_l4"], settings)
    (tmp_path / "data").mkdir()
    shutil.copy(ref_l4_dir / "ref-l4-val.parquet", tmp_path / "data")
    with tarfile.open(ref_l4_dir / "images.tar.gz") as archive:
        archive.extractall(tmp_path / "data", filter="data")
    unpacked = evaluate(model_dir, tmp_path / "data", tmp_path / "unpacked", ["ref_l4"], settings)
    prints = [run["receipt"]["tasks"]["ref_l4"]["fingerprint"] for run in (packed, unpacked)]
    assert prints[0] == prints[1]


def test_a_killed_run_asks_only_what_was_not_answered(model_dir, text_records, answering, tmp_path, monkeypatch):
    table, asked = answering
    table.update(record_truths(text_records))
    settings = Settings(batch_size=4)
    whole = evaluate(model_dir, text_records, tmp_path / "whole", RECORD_TASKS, settings)["tasks"]
    everything, alive = len(asked), AnswerGenerator.__call__
    asked.clear()

    def dying(self, conversations, **arguments):
        if len(asked) == 8:
            raise KeyboardInterrupt
        return alive(self, conversations, **arguments)

    monkeypatch.setattr(AnswerGenerator, "__call__", dying)
    with pytest.raises(KeyboardInterrupt):
        evaluate(model_dir, text_records, tmp_path / "killed", RECORD_TASKS, settings)
    monkeypatch.setattr(AnswerGenerator, "__call__", alive)
    asked.clear()
    again = evaluate(model_dir, text_records, tmp_path / "killed", RECORD_TASKS, settings)["tasks"]
    assert len(asked) == everything - 8
    assert again == whole
    assert not (tmp_path / "killed" / KEPT_FILE).exists()


def test_an_untrained_model_runs_and_scores_the_same_again(model_dir, text_records, tmp_path):
    settings = Settings(limit=3, batch_size=2)
    runs = [evaluate(model_dir, text_records, tmp_path / name, RECORD_TASKS, settings)["tasks"] for name in "ab"]
    assert runs[0] == runs[1]
    assert [entry["n"] for entry in runs[0].values()] == [3, 3, 3]
    assert all(entry["score"] < 1 for entry in runs[0].values())


def test_what_the_data_do_not_have_is_said(model_dir, corpus, refcoco_dir, ref_l4_dir, tmp_path, capsys):
    with pytest.raises(ValueError, match="no question for counting in split 'test'"):
        evaluate(model_dir, corpus, tmp_path, ["counting"])
    with pytest.raises(ValueError, match=r"no split 'test'.*testA-00000-of-00001.parquet"):
        evaluate(model_dir, refcoco_dir, tmp_path, ["refcoco"])
    with pytest.raises(ValueError, match=r"no split 'test'.*ref-l4-val.parquet"):
        evaluate(model_dir, ref_l4_dir, tmp_path, ["ref_l4"])
    with pytest.raises(ValueError, match="has no columns answer, bbox, question_id"):
        evaluate(model_dir, corpus, tmp_path, ["refcoco"])
    assert main(["eval", "ref_l4", "--model", str(model_dir), "--data", str(refcoco_dir), "--out", str(tmp_path)]) == 2
