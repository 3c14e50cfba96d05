"""The adapter: answers in request order, lmms-eval's generation arguments honoured, blind runs really blind."""

import numpy as np
import pytest
from lmms_eval import models
from lmms_eval.api.instance import Instance
from PIL import Image

from finevit_eval.questions import adapter as lmms_model
from finevit_eval.questions.adapter import FineViTVL, blind_conversation, generation_arguments, truncate
from finevit_vl.answering import AnswerGenerator, conversation_images, user_turn

GREEDY = {"max_new_tokens": 6, "temperature": 0.0, "do_sample": False, "until": ["\n\n"]}


def picture(index: int) -> Image.Image:
    """Pictures of different sizes and content."""
    noise = np.random.default_rng(index).integers(0, 256, (56 + 28 * (index % 3), 56 + 28 * (index % 5), 3), np.uint8)
    return Image.fromarray(noise)


DOCS = [{"image": picture(i), "question": "what is it? " * (1 + 7 * i % 4)} for i in range(9)]


def to_messages(doc):
    parts = [{"type": "image", "url": doc["image"]}, {"type": "text", "text": doc["question"]}]
    return [{"role": "user", "content": parts}]


def requests(gen_kwargs=GREEDY, docs=DOCS, task="some_task"):
    return [
        Instance(
            request_type="generate_until",
            arguments=(doc["question"], to_messages, gen_kwargs, index, task, "test"),
            idx=0,
            metadata={"task": task, "doc_id": index, "repeats": 1},
        )
        for index, doc in enumerate(docs)
    ]


@pytest.fixture
def make_lm(model_dir):
    def make(**arguments):
        lm = FineViTVL(str(model_dir), device="cpu", **arguments)
        lm.task_dict = {"some_task": {"test": DOCS}}
        return lm

    return make


def texts(results):
    return [result.text for result in results]


def test_the_entry_point_names_this_class():
    assert models.get_model("finevit_vl") is FineViTVL


@pytest.mark.parametrize("batch_size", [2, 4, "16"])
@pytest.mark.parametrize("window", [1, 32])
def test_batches_do_not_change_answers_or_their_order(make_lm, monkeypatch, batch_size, window):
    monkeypatch.setattr(lmms_model, "WINDOW", window)
    one_by_one = texts(make_lm(batch_size=1).generate_until(requests()))
    assert len(set(one_by_one)) > 5, "answers that do not differ would hide a wrong order"
    assert texts(make_lm(batch_size=batch_size).generate_until(requests())) == one_by_one


def test_requests_with_other_generation_arguments_keep_their_place(make_lm):
    mixed = requests()
    short = requests({**GREEDY, "max_new_tokens": 2})
    mixed[2], mixed[7] = short[2], short[7]
    lm = make_lm(batch_size=4)
    lengths = [result.token_counts.output_tokens for result in lm.generate_until(mixed)]
    assert [i for i, length in enumerate(lengths) if length <= 2] == [2, 7]


def test_the_adapter_brings_its_own_length_where_the_task_sets_none(make_lm):
    lm = make_lm(max_new_tokens=3)
    results = lm.generate_until(requests({"until": ["ASSISTANT:"]}, DOCS[:2]))
    assert max(result.token_counts.output_tokens for result in results) == 3


def test_clean_leaves_the_model_usable(make_lm):
    lm = make_lm()
    before = texts(lm.generate_until(requests(docs=DOCS[:2])))
    lm.clean()
    assert texts(lm.generate_until(requests(docs=DOCS[:2]))) == before


def test_answers_depend_on_the_picture_and_a_blind_model_on_its_size_alone(make_lm):
    same_size = [{"image": picture(0).point(lambda v, k=k: (v + 80 * k) % 256), "question": "what?"} for k in range(4)]
    seeing, blind = make_lm(batch_size=2), make_lm(batch_size=2, blind=True)
    for lm in (seeing, blind):
        lm.task_dict = {"some_task": {"test": same_size}}
    assert len(set(texts(seeing.generate_until(requests(docs=same_size))))) > 1
    assert len(set(texts(blind.generate_until(requests(docs=same_size))))) == 1


def test_blind_greys_every_pixel_and_keeps_sizes_and_words():
    conversation = [*user_turn(picture(1), "first"), *user_turn(picture(2), "second")]
    blinded = blind_conversation(conversation)
    assert [image.size for image in conversation_images(blinded)] == [picture(1).size, picture(2).size]
    assert all((np.asarray(image) == 128).all() for image in conversation_images(blinded))
    assert [m["content"][1] for m in blinded] == [m["content"][1] for m in conversation]
    assert (np.asarray(conversation_images(conversation)[0]) == np.asarray(picture(1))).all()


@pytest.mark.parametrize(
    ("text", "until", "expected"),
    [
        ("yes\n\nno", ["\n\n"], "yes"),
        ("a ASSISTANT: b", "ASSISTANT:", "a "),
        ("one two three", ["three", "two"], "one "),
        ("plain", ["\n\n", ""], "plain"),
    ],
)
def test_answers_end_before_the_first_stop(text, until, expected):
    assert truncate(text, until) == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"temperature": 0.0, "do_sample": False, "top_p": 0.9}, {"do_sample": False}),
        ({"temperature": 0.0, "do_sample": True}, {"do_sample": False}),
        ({"temperature": 0.7, "top_p": 0.9}, {"do_sample": True, "temperature": 0.7, "top_p": 0.9}),
        ({"temperature": 0.7, "do_sample": False}, {"do_sample": False}),
        ({"do_sample": True}, {"do_sample": True}),
        ({"num_beams": 3, "max_new_tokens": 8}, {"do_sample": False, "num_beams": 3, "max_new_tokens": 8}),
        ({"until": ["x"], "image_aspect_ratio": "original"}, {"do_sample": False}),
    ],
)
def test_generation_arguments(given, expected):
    assert generation_arguments(given) == expected


def test_beams_and_sampling_reach_generate(make_lm):
    lm = make_lm(batch_size=3)
    beams = texts(lm.generate_until(requests({**GREEDY, "num_beams": 3}, DOCS[:3])))
    assert len(beams) == 3
    sampled = {
        tuple(texts(lm.generate_until(requests({"temperature": 5.0, "max_new_tokens": 6}, DOCS[:3])))) for _ in "ab"
    }
    assert len(sampled) == 2


def test_a_picture_budget_is_kept(model_dir):
    generator = AnswerGenerator.from_pretrained(str(model_dir), max_pixels=112 * 112)
    grid = generator.processor.image_processor([Image.new("RGB", (900, 600))])["image_grid_thw"]
    assert int(grid.prod()) * 14 * 14 <= 112 * 112
    with pytest.raises(ValueError, match="give a larger max_pixels"):
        AnswerGenerator.from_pretrained(str(model_dir), max_pixels=100)


def test_video_is_refused(make_lm):
    lm = make_lm()
    request = requests(docs=DOCS[:1])[0]
    video = [{"role": "user", "content": [{"type": "video", "url": "clip.mp4"}, {"type": "text", "text": "what?"}]}]
    request.arguments = (request.args[0], lambda _: video, *request.args[2:])
    with pytest.raises(ValueError, match="pictures only"):
        lm.generate_until([request])
