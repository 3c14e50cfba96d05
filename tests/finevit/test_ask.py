"""`finevit ask` and `finevit ground`: any picture, clear errors, boxes in pixels and drawn."""

import io
from typing import Any

import numpy as np
import pytest
from lmms_eval.tasks.docvqa.utils import docvqa_doc_to_text
from lmms_eval.tasks.refcoco.utils_rec import refcoco_bbox_rec_doc_to_text
from PIL import Image

import finevit
from finevit import ask
from finevit_cli import main
from finevit_vl.answering import Answer, AnswerGenerator
from finevit_vl.model_folder import check_model_folder
from tests.support.vl_models import save_untrained_nano

WIDTH, HEIGHT = 120, 80
# lmms-eval keeps these words in a YAML that only its task loader reads.
DOCVQA_PROMPT = {"pre_prompt": "", "post_prompt": "\nAnswer the question using a single word or phrase."}


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    """A folder with an untrained nano model."""
    return save_untrained_nano(tmp_path_factory.mktemp("model"))


@pytest.fixture
def answers_with(monkeypatch):
    """Let the model write a given text; everything around it stays real."""

    asked = []

    def set_text(text):
        def written(self, conversations, **_):
            asked.extend(conversation[0]["content"][1]["text"] for conversation in conversations)
            return [Answer(text, text, "prompt", 1) for _ in conversations]

        monkeypatch.setattr(AnswerGenerator, "__call__", written)
        return asked

    return set_text


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "picture.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)).save(path)
    return path


def test_the_model_answers_about_a_picture(model_dir, picture, capsys):
    assert main(["ask", str(model_dir), str(picture), "What is this?"]) == 0
    assert capsys.readouterr().out.strip()


def test_loading_shows_a_person_no_bars_and_leaves_those_of_others_on(model_dir, capfd):
    ask.load(str(model_dir), "cpu")
    assert capfd.readouterr().err == ""
    AnswerGenerator.from_pretrained(str(model_dir), "cpu")
    assert "Loading weights" in capfd.readouterr().err


def test_the_answer_is_the_pipelines(model_dir, picture):
    """transformers' own image-text-to-text pipeline says the same about the same picture."""
    from transformers import pipeline

    generator = ask.load(str(model_dir), "cpu")
    image = ask.open_picture(picture, 10**8)
    ours = ask.ask(generator, image, "Describe the image.", max_new_tokens=8)
    turn = [{"type": "image", "image": image}, {"type": "text", "text": "Describe the image."}]
    model: Any = pipeline("image-text-to-text", str(model_dir), device="cpu")
    options = {"max_new_tokens": 8, "do_sample": False}
    theirs = model(text=[{"role": "user", "content": turn}], return_full_text=False, generate_kwargs=options)
    assert ours == theirs[0]["generated_text"].strip()


def test_questions_are_put_as_in_training_and_instructions_as_they_stand(model_dir, picture, answers_with):
    asked = answers_with("yes")
    for words in ("Is it red?", "Describe the image."):
        assert main(["ask", str(model_dir), str(picture), words]) == 0
    assert main(["ground", str(model_dir), str(picture), "the red cat"]) == 1
    short, instruction, expression = asked
    assert short == docvqa_doc_to_text({"question": "Is it red?"}, DOCVQA_PROMPT)
    assert instruction == "Describe the image."
    assert expression == refcoco_bbox_rec_doc_to_text({"answer": "the red cat"})


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16"])
def test_any_mode_is_read(tmp_path, mode):
    image = Image.new("L", (WIDTH, HEIGHT), 128)
    image = Image.new(mode, image.size, 40_000) if mode == "I;16" else image.convert(mode)
    path = tmp_path / "picture.tiff"
    image.save(path)
    opened = ask.open_picture(path, 10**8)
    assert (opened.mode, opened.size) == ("RGB", (WIDTH, HEIGHT))


def test_a_turned_photo_is_read_upright(tmp_path):
    photo = Image.new("RGB", (WIDTH, HEIGHT))
    exif = photo.getexif()
    exif[0x0112] = 6
    photo.save(tmp_path / "photo.jpg", exif=exif)
    assert ask.open_picture(tmp_path / "photo.jpg", 10**8).size == (HEIGHT, WIDTH)


def _truncated() -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((64, 64), 90).save(buffer, "PNG")
    return buffer.getvalue()[:900]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("missing.png", None, "no such picture file"),
        ("text.png", b"not a picture", "cannot be opened"),
        ("cut.png", _truncated(), "truncated or corrupt"),
        ("empty.png", b"", "cannot be opened"),
    ],
)
def test_a_bad_picture_ends_with_2_and_one_line(model_dir, tmp_path, capsys, name, content, reason):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert main(["ask", str(model_dir), str(tmp_path / name), "What?"]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("finevit:")]
    assert name in line
    assert reason in line


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["ask", "{tmp}", "{picture}", "What?"], "holds no config.json"),
        (["ask", "{tmp}/a/b", "{picture}", "What?"], "does not exist"),
        (["ask", "{model}", "{picture}", "  "], "question is empty"),
        (["ground", "{model}", "{picture}", ""], "expression is empty"),
        (["ask", "{model}", "{picture}", "What?", "--device", "tpu9"], "device tpu9 cannot be used"),
        (["ask", "{model}", "{picture}", "What?", "--device", "cuda:99"], "device cuda:99 cannot be used"),
    ],
)
def test_mistakes_are_named(model_dir, picture, tmp_path, capsys, arguments, reason):
    filled = [a.format(tmp=tmp_path, picture=picture, model=model_dir) for a in arguments]
    assert main(filled) == 2
    assert reason in capsys.readouterr().err


def test_a_mistyped_folder_is_not_looked_for_on_the_hub(picture, tmp_path, capsys, monkeypatch):
    (tmp_path / "outputs" / "demo").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(AnswerGenerator, "from_pretrained", None)  # whatever would load it
    assert main(["ask", "outputs/demoo", str(picture), "What?"]) == 2
    assert "outputs/demoo does not exist: the folder outputs is there" in capsys.readouterr().err
    check_model_folder("owner/name")


def test_ground_prints_pixels_and_draws_them(model_dir, picture, tmp_path, capsys, answers_with):
    answers_with("<|box_start|>(100,250),(500,750)<|box_end|>")
    out = tmp_path / "deep" / "drawn.png"
    assert main(["ground", str(model_dir), str(picture), "the cat", "--out", str(out)]) == 0
    assert capsys.readouterr().out.splitlines() == ["12.0 20.0 60.0 60.0", str(out)]
    drawn = np.asarray(Image.open(out)).astype(int)
    factor = drawn.shape[0] // HEIGHT
    before = np.asarray(Image.open(picture)).repeat(factor, 0).repeat(factor, 1).astype(int)
    rows, columns = np.nonzero((drawn != before).any(-1))
    assert factor * 12 <= columns.min() + factor
    assert abs(rows.max() - factor * 60) <= factor
    inside = drawn[factor * 30 : factor * 50, factor * 20 : factor * 50]
    assert (inside == before[factor * 30 : factor * 50, factor * 20 : factor * 50]).all()


def test_no_box_is_said_so_and_writes_nothing(model_dir, picture, tmp_path, capsys, answers_with):
    answers_with("a cat")
    out = tmp_path / "drawn.png"
    assert main(["ground", str(model_dir), str(picture), "the cat", "--out", str(out)]) == 1
    assert "the model gave no box; it wrote 'a cat'" in capsys.readouterr().err
    assert not out.exists()


def test_an_unknown_picture_format_is_refused(model_dir, picture, tmp_path, capsys, answers_with):
    answers_with("<|box_start|>(100,250),(500,750)<|box_end|>")
    assert main(["ground", str(model_dir), str(picture), "the cat", "--out", str(tmp_path / "drawn.docx")]) == 2
    assert "use .png or .jpg" in capsys.readouterr().err


def test_import_finevit_registers_the_models(model_dir):
    from transformers import AutoConfig

    assert finevit.finevit_vl.FineViTVLConfig is type(AutoConfig.from_pretrained(model_dir))
