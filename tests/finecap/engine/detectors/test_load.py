"""Detectors: the real code of Transformers on small random models, planted answers, a served one, a captioner."""

import asyncio

import pytest
import torch

from finecap.engine.detectors.zero_shot import ZeroShotDetector
from finecap.errors import StopRun
from tests.support.tiny_detectors import (
    noise_picture,
    save_grounding_dino,
    save_mm_grounding_dino,
    save_omdet_turbo,
    save_owlv2,
    save_owlvit,
    widest_gap,
)

PHRASES = ["a red car", "The Zebra", "a black dog with a white wheel"]
FULL_STOP = 1012


@pytest.fixture(scope="module")
def grounding_dino(tmp_path_factory):
    return save_grounding_dino(tmp_path_factory.mktemp("tiny-dino"))


@pytest.fixture(scope="module")
def owlv2(tmp_path_factory):
    return save_owlv2(tmp_path_factory.mktemp("tiny-owl"))


@pytest.fixture
def picture():
    return noise_picture()


def find(detector, picture, phrases):
    return asyncio.run(detector.detect(picture, phrases))


def plant(monkeypatch, detector, hits):
    """Make the model answer like one that knows some words: query i sees the i-th of `hits`, a word (one token) with a
    score and a box (centre x, y, width, height in 0-1), wherever that word stands in the text. Returns what it was
    asked, as token ids.
    """
    forward, asked = detector._model.forward, []
    vocabulary = detector._processor.tokenizer.get_vocab()

    def planted(**inputs):
        outputs = forward(**inputs)
        outputs.logits[:] = -20.0
        asked.append(inputs["input_ids"][0].tolist())
        for query, (word, score, box) in enumerate(hits):
            places = (inputs["input_ids"][0] == vocabulary[word]).nonzero()[:, 0]
            outputs.logits[0, query, places] = torch.logit(torch.tensor(score))
            outputs.pred_boxes[0, query] = torch.tensor(box)
        return outputs

    monkeypatch.setattr(detector._model, "forward", planted)
    return asked


CAR = ("car", 0.9, (0.5, 0.25, 0.2, 0.1))
ZEBRA = ("##b", 0.6, (0.1, 0.9, 0.1, 0.2))  # in the middle of a word of many tokens
WHEEL = ("wheel", 0.31, (0.75, 0.5, 0.5, 1.0))
FAINT = ("dog", 0.29, (0.5, 0.5, 0.2, 0.2))


def test_a_box_gets_the_phrase_whose_token_fires_and_its_pixels(grounding_dino, picture, monkeypatch):
    detector = ZeroShotDetector.from_folder(grounding_dino, 0.3)
    plant(monkeypatch, detector, [CAR, ZEBRA, WHEEL, FAINT])

    found = find(detector, picture, PHRASES)

    assert [item.phrase for item in found] == [0, 1, 2]
    assert [item.score for item in found] == pytest.approx([0.9, 0.6, 0.31])
    # The picture is not square and the boxes lie off its diagonal: x for y, or width for height, would not pass.
    assert found[0].bbox == pytest.approx((80, 24, 120, 36), abs=1e-3)
    assert found[1].bbox == pytest.approx((10, 96, 30, 120), abs=1e-3)
    assert found[2].bbox == pytest.approx((100, 0, 200, 120), abs=1e-3)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0), (2, 1, 0)])
def test_permuted_phrases_move_the_labels_and_nothing_else(grounding_dino, picture, monkeypatch, order):
    detector = ZeroShotDetector.from_folder(grounding_dino, 0.3)
    plant(monkeypatch, detector, [CAR, ZEBRA, WHEEL])

    found = find(detector, picture, [PHRASES[index] for index in order])

    assert [order[item.phrase] for item in found] == [0, 1, 2]
    assert [item.phrase for item in find(detector, picture, ["a tree", "the house"])] == []


@pytest.mark.parametrize("nasty", ["a 3.5 m tree?", "[SEP] the house. a [CLS] dog.", "...", "", " \n"])
def test_punctuation_in_a_phrase_opens_no_new_phrase(grounding_dino, picture, monkeypatch, nasty):
    detector = ZeroShotDetector.from_folder(grounding_dino, 0.3)
    asked = plant(monkeypatch, detector, [CAR, ZEBRA])

    found = find(detector, picture, [PHRASES[1], nasty, PHRASES[0]])

    assert [item.phrase for item in found] == [2, 0]
    assert asked[0].count(FULL_STOP) == 2 + bool(nasty.strip(". \n"))
    assert (asked[0].count(101), asked[0].count(102)) == (1, 1)


def test_more_phrases_than_one_text_holds_are_asked_in_several(tmp_path, picture, monkeypatch):
    detector = ZeroShotDetector.from_folder(save_grounding_dino(tmp_path, max_text_len=16), 0.3)
    asked = plant(monkeypatch, detector, [CAR, ZEBRA, WHEEL])
    phrases = ["the tree", *PHRASES, "a very very very long house of trees", "the blue car"]

    found = find(detector, picture, phrases)

    assert len(asked) > 2
    assert max(map(len, asked)) <= 16
    assert all(ids[-2] == FULL_STOP for ids in asked), "without it the last phrase has no attention within itself"
    assert sorted((item.phrase, item.bbox[0]) for item in found) == [
        pytest.approx(pair, abs=1e-3) for pair in [(1, 80), (2, 10), (3, 100), (5, 80)]
    ]


def test_boxes_and_scores_are_those_of_the_processor_of_transformers(grounding_dino, picture):
    """Its `text_labels` are joined or cut phrases, but boxes and scores are the same wherever a word scores best."""
    detector = ZeroShotDetector.from_folder(grounding_dino, 0.0)
    inputs = detector._processor(images=picture, text=[PHRASES], return_tensors="pt")
    with torch.inference_mode():
        outputs = detector._model(**inputs)
    theirs = detector._processor.post_process_grounded_object_detection(
        outputs, threshold=0.0, target_sizes=[(picture.height, picture.width)]
    )[0]
    ids = inputs["input_ids"][0]
    on_a_word = ~torch.isin(ids[outputs.logits[0, :, : len(ids)].argmax(-1)], torch.tensor([101, 102, FULL_STOP]))

    found = find(detector, picture, PHRASES)

    assert 0 < on_a_word.sum() <= len(found) == 16
    mine = torch.tensor([[*item.bbox, item.score] for item in found])[on_a_word]
    torch.testing.assert_close(mine, torch.cat([theirs["boxes"], theirs["scores"][:, None]], 1)[on_a_word])


# OWLv2 sees the picture at the top left of a square of its longer side, OWL-ViT all of it squeezed to a square.
@pytest.mark.parametrize(("save", "bbox"), [(save_owlv2, (80, 40, 120, 60)), (save_owlvit, (80, 24, 120, 36))])
def test_models_that_read_each_phrase_alone(tmp_path, picture, monkeypatch, save, bbox):
    detector = ZeroShotDetector.from_folder(save(tmp_path), 0.3)
    forward = detector._model.forward
    house = detector._processor.tokenizer("the house", padding="max_length", truncation=True)["input_ids"]

    def planted(**inputs):
        assert inputs["input_ids"].shape == (2, 16)
        outputs = forward(**inputs)
        outputs.logits[:] = -20.0
        for column, ids in enumerate(inputs["input_ids"].tolist()):
            if ids == house:
                outputs.logits[0, 5, column] = 2.0
        outputs.pred_boxes[0, 5] = torch.tensor([0.5, 0.25, 0.2, 0.1])
        return outputs

    monkeypatch.setattr(detector._model, "forward", planted)
    long = "a caption of far more than the sixteen tokens that this text tower reads"
    for phrases, place in ((["", "The house.", long], 1), ([long, "...", "the house"], 2)):
        (found,) = find(detector, picture, phrases)
        assert found.phrase == place
        assert found.score == pytest.approx(0.8808, abs=1e-4)
        assert found.bbox == pytest.approx(bbox, abs=1e-3)


def test_the_threshold_is_kept_and_nothing_is_asked_without_phrases(owlv2, grounding_dino, picture, monkeypatch):
    for folder in (owlv2, grounding_dino):
        everything = find(ZeroShotDetector.from_folder(folder, 0.0), picture, PHRASES)
        middle = widest_gap([item.score for item in everything])
        strict = ZeroShotDetector.from_folder(folder, middle)
        assert {item.phrase for item in everything} <= {0, 1, 2}
        assert len(everything) == 16
        assert 0 < len(find(strict, picture, PHRASES)) < 16
        assert find(strict, picture, PHRASES) == [item for item in everything if item.score >= middle]
        monkeypatch.setattr(strict._model, "forward", None)
        assert find(strict, picture, []) == []


@pytest.mark.parametrize(
    ("save", "kind"),
    [(save_mm_grounding_dino, "mm-grounding-dino"), (save_owlvit, "owlvit"), (save_omdet_turbo, "omdet-turbo")],
)
def test_their_sisters_load_and_answer_too(tmp_path, picture, save, kind):
    detector = ZeroShotDetector.from_folder(save(tmp_path), 0.0)
    found = find(detector, picture, PHRASES)
    assert detector.name.startswith(f"{kind} ")
    assert len(found) == 16
    assert {item.phrase for item in found} <= {0, 1, 2}
    assert len({item.bbox for item in found}) > 1


def test_a_name_tells_two_sets_of_weights_apart(grounding_dino, tmp_path):
    name = ZeroShotDetector.from_folder(grounding_dino, 0.3).name
    assert name.startswith("grounding-dino tiny-dino")
    other = ZeroShotDetector.from_folder(save_grounding_dino(tmp_path, max_text_len=16), 0.3)
    assert other.name.split()[-1] == name.split()[-1]  # the seed is the same
    with torch.no_grad():
        other._model.model.level_embed += 1
    other._model.save_pretrained(tmp_path)
    assert ZeroShotDetector.from_folder(tmp_path, 0.3).name.split()[-1] != name.split()[-1]


@pytest.mark.parametrize("content", [None, "{}", '{"model_type": "bert"}'])
def test_a_folder_without_a_detector_stops_the_run(tmp_path, content):
    if content:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(StopRun, match=r"boxes\.detector: .*"):
        ZeroShotDetector.from_folder(tmp_path, 0.3)
