"""What was measured goes into the card, comes back through huggingface_hub, and leaves the rest as it is."""

import json
import shutil

import pytest
import yaml
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import model_index_to_eval_results

from finecap.made_with import weight_hashes
from finevit.card import check_card, with_section, write_card
from finevit_cli import main
from finevit_eval.result import Outcome, score_entry, write_results
from finevit_training.receipt import model_card
from tests.support.paths import NANO

SAMPLES = [{"id": str(n), "group": str(n), "score": float(n < 3)} for n in range(4)]


@pytest.fixture
def folder(tmp_path):
    """The shipped checkpoint as a training of today leaves it."""
    folder = tmp_path / "trained"
    shutil.copytree(NANO, folder)
    receipt = json.loads((folder / "receipt.json").read_text())
    receipt["data"]["corpora"] = ["hf://datasets/somebody/pages/data/*.parquet", "outputs/corpus"]
    (folder / "receipt.json").write_text(json.dumps(receipt))
    (folder / "README.md").write_text(model_card("vl.md", "trained", receipt))
    return folder


@pytest.fixture
def measured(folder, tmp_path):
    """Results of that checkpoint, seen and blind."""

    def measured(name, score=0.75, **changes):
        outcomes = {"grounding": Outcome(score, SAMPLES if score == 0.75 else SAMPLES[-1:], {"iou": 0.66})}
        receipt = {"model": "m", "weights": weight_hashes(folder), "data": "corpus", "split": "test", "max_pixels": 9}
        receipt |= {"dtype": "float32", "tasks": {"grounding": {"fingerprint": "f" * 64}}} | changes
        entries = {task: score_entry("acc@0.5", outcome) for task, outcome in outcomes.items()}
        write_results(tmp_path / name, entries, outcomes, receipt, {})
        return tmp_path / name

    return measured


def test_a_training_writes_no_score_and_says_so(folder):
    card = ModelCard((folder / "README.md").read_text())
    assert card.data.eval_results is None
    assert "Nothing has been measured yet." in card.text
    assert "`finevit card trained --results RUN`" in card.text
    assert "19.0 minutes (0.32 hours)" in card.text
    assert {"Intended use", "Measured", "License", "Limits"} <= set(_headings(card.text))


def _headings(text):
    return [line.removeprefix("## ") for line in text.splitlines() if line.startswith("## ")]


def test_figures_stand_in_the_head_and_in_the_text(folder, measured):
    results = [measured("run"), measured("blind", 0.0, blind=True)]
    before = _headings((folder / "README.md").read_text())
    card = ModelCard(write_card(folder, results, "apache-2.0").read_text())
    (model,) = yaml.safe_load(card.content.split("---")[1])["model-index"]
    _, found = model_index_to_eval_results([model])
    assert {one.metric_type: one.metric_value for one in found} == {"acc@0.5": 0.75, "iou": 0.66}
    headline = found[0]
    assert (headline.task_type, headline.dataset_type, headline.dataset_split) == (
        "image-text-to-text",
        "corpus",
        "test",
    )
    assert headline.metric_args == {"n": 4, "interval": [0.3006, 0.9544]}
    assert headline.dataset_args == {"fingerprint": "f" * 64}
    assert "| Grounding | acc@0.5 | 4 | 0.750 | 0.301 to 0.954 | blind 0.000 |" in card.text
    assert "Nothing has been measured" not in card.text
    assert (card.data.license, card.data.datasets) == ("apache-2.0", ["somebody/pages"])
    assert "apache-2.0, see the head" in card.text
    assert _headings(card.text) == before


def test_writing_twice_changes_nothing_and_words_of_the_owner_stay(folder, measured):
    path = folder / "README.md"
    path.write_text(path.read_text().replace("## Limits", "## Thanks\nTo all.\n\n## Limits"))
    run = measured("run")
    once = write_card(folder, [run], "mit").read_text()
    assert "## Thanks\nTo all.\n" in once
    assert write_card(folder, [run]).read_text() == once
    assert ModelCard(once).data.license == "mit"


def test_a_card_that_is_gone_is_made_from_receipt_and_template(folder):
    trained = ModelCard((folder / "README.md").read_text())
    (folder / "README.md").unlink()
    again = ModelCard(write_card(folder).read_text())
    assert again.text == trained.text
    assert again.data.pipeline_tag == "image-text-to-text"
    (folder / "README.md").unlink()
    (folder / "receipt.json").unlink()
    with pytest.raises(ValueError, match=r"neither README\.md nor a training's receipt\.json"):
        write_card(folder)


def test_results_of_other_weights_are_refused_and_the_card_stays(folder, measured, capsys):
    before = (folder / "README.md").read_text()
    other = measured("other", weights={"model.safetensors": "0" * 64})
    assert main(["card", str(folder), "--results", str(other)]) == 2
    assert "of other weights" in capsys.readouterr().err
    assert (folder / "README.md").read_text() == before


@pytest.mark.parametrize("head", ["", "---\nlibrary_name: transformers\n---\n"])
def test_a_head_without_a_task_is_refused(head):
    with pytest.raises(ValueError, match="names no pipeline_tag"):
        check_card(f"{head}# m\n")


def test_figures_of_another_form_are_no_model_index():
    with pytest.raises(ValueError, match="model_index"):
        check_card("---\npipeline_tag: image-text-to-text\nmodel-index:\n- name: m\n---\n# m\n")


def test_a_section_is_replaced_where_it_is_or_added_at_the_end():
    text = "# m\n\n## A\nold\n\n## B\nkept\n"
    assert with_section(text, "A", "new") == "# m\n\n## A\nnew\n\n## B\nkept\n"
    assert with_section(text, "C", "new") == text + "\n## C\nnew\n"
