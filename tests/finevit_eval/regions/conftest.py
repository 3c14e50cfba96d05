"""Models, and small data sets in the layouts that their authors publish: coloured rectangles whose texts name them."""

import io
import json
import tarfile

import pytest
from datasets import Dataset, Features, Image, Sequence, Value
from PIL import Image as Pictures
from PIL import ImageDraw

from finecap.features import FINECAP_FEATURES
from finecap.records import region
from tests.support.picture_text_models import save_dual, save_siglip

WIDTH, HEIGHT = 112, 84
COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "white": (255, 255, 255)}
LEFT, RIGHT = (8, 12, 50, 60), (60, 20, 104, 72)


def two_rectangles(number: int) -> tuple[Pictures.Image, list[str]]:
    """Black with a rectangle in LEFT and one in RIGHT, and their colours; no two numbers below 12 give one picture."""
    names = list(COLOURS)
    colours = [names[number % 4], names[(number + 1 + number // 4) % 4]]
    picture = Pictures.new("RGB", (WIDTH, HEIGHT), (number, 0, 0))
    for box, colour in zip((LEFT, RIGHT), colours, strict=True):
        ImageDraw.Draw(picture).rectangle((box[0], box[1], box[2] - 1, box[3] - 1), fill=COLOURS[colour])
    return picture, colours


def encoded(picture: Pictures.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def xywh(box):
    return [box[0], box[1], box[2] - box[0], box[3] - box[1]]


@pytest.fixture(scope="session")
def dual_dir(tmp_path_factory):
    """A folder with an untrained FineViT-Dual and its processor."""
    return save_dual(tmp_path_factory.mktemp("dual"))


@pytest.fixture(scope="session")
def siglip_dir(tmp_path_factory):
    """A folder with an untrained SigLIP and its processor."""
    return save_siglip(tmp_path_factory.mktemp("siglip"))


@pytest.fixture(scope="session")
def coco_dir(tmp_path_factory):
    """Twelve pictures in COCO's layout, one crowd among their annotations; FG-OVD's hard level and its trivial one."""
    folder = tmp_path_factory.mktemp("coco")
    (folder / "val2017").mkdir()
    (folder / "annotations").mkdir()
    (folder / "fgovd").mkdir()
    images, annotations, lines = [], [], []
    for number in range(12):
        picture, colours = two_rectangles(number)
        name = f"{number:012d}.png"
        picture.save(folder / "val2017" / name)
        images.append({"id": number, "file_name": name, "width": WIDTH, "height": HEIGHT})
        for box, colour in zip((LEFT, RIGHT), colours, strict=True):
            annotations.append({"id": len(annotations) + 7, "image_id": number, "bbox": xywh(box), "iscrowd": 0})
            annotations[-1]["category_id"] = 10 * (list(COLOURS).index(colour) + 1)
            wrong = [other for other in COLOURS if other != colour]
            line = {"img_path": f"val2017/{name}", "bbox": xywh(box), "pos_expression": [f"A {colour} box"]}
            lines.append({**line, "neg_expression": [f"a {wrong[at % 3]} box {at}" for at in range(10)]})
    crowd = {"id": 1, "image_id": 3, "bbox": [0, 0, 100, 80], "iscrowd": 1, "category_id": 10}
    categories = [{"id": 10 * (at + 1), "name": f"{colour}_box"} for at, colour in enumerate(COLOURS)]
    whole = {"images": images, "annotations": [*annotations, crowd], "categories": categories}
    (folder / "annotations" / "instances_val2017.json").write_text(json.dumps(whole))
    (folder / "annotations" / "captions_val2017.json").write_text("{}")
    for name in ("1_attributes", "shuffle_negatives"):
        (folder / "fgovd" / f"{name}_llava.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture(scope="session")
def refcoco_dir(tmp_path_factory):
    """Six pictures in lmms-lab's layout, two expressions of each box."""
    folder = tmp_path_factory.mktemp("refcoco")
    rows = []
    for number in range(6):
        picture, colours = two_rectangles(number)
        for box, colour in zip((LEFT, RIGHT), colours, strict=True):
            expressions = [f"{colour} thing {len(rows)}", f"box {len(rows)} that is {colour}"]
            image = {"bytes": encoded(picture), "path": None}
            row = {"question_id": str(len(rows)), "image": image, "question": "Describe.", "answer": expressions}
            rows.append({**row, "bbox": [float(side) for side in xywh(box)], "file_name": f"{number}.png"})
    text = Value("string")
    features = {"question_id": text, "image": Image(), "question": text, "answer": Sequence(text)}
    features |= {"bbox": Sequence(Value("float32")), "file_name": text}
    (folder / "data").mkdir()
    for split in ("val", "testA"):
        path = folder / "data" / f"{split}-00000-of-00001.parquet"
        Dataset.from_list(rows, features=Features(features)).to_parquet(path)
    return folder


@pytest.fixture(scope="session")
def ref_l4_dir(tmp_path_factory):
    """Six pictures in Ref-L4's layout."""
    folder = tmp_path_factory.mktemp("ref_l4")
    rows = []
    with tarfile.open(folder / "images.tar.gz", "w:gz") as archive:
        for number in reversed(range(6)):
            picture, colours = two_rectangles(number)
            member = tarfile.TarInfo(name := f"images/o365_{number}.png")
            data = encoded(picture)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
            rows.append({"id": str(number), "caption": f"The {colours[0]} rectangle of picture {number}."})
            rows[-1] |= {"bbox": [float(side) for side in xywh(LEFT)], "file_name": name, "width": WIDTH}
    Dataset.from_list(rows[::-1]).to_parquet(folder / "ref-l4-val.parquet")
    return folder


@pytest.fixture(scope="session")
def text_records(tmp_path_factory, make_record):
    """Six FineCap records with two texts and a question that counts each; one text occurs twice in its picture."""
    folder = tmp_path_factory.mktemp("text_records")
    rows = []
    for number in range(6):
        words = [f"Total {number},50 EUR", "twice" if number == 5 else f"word{number}"]
        left = 4 + 14 * number
        boxes = [(left, 10, left + 26, 22), (left, 30, left + 20, 50)]
        texts = [region(box, "document_text", "line", text=text) for box, text in zip(boxes, words, strict=True)]
        texts += [region((2, 70, 80, 80), "document_text", "line", text="Twice")] if number == 5 else []
        answers = [str(number % 3), ("none", "one", "two")[number % 3]]
        question = {"question": f"How many dogs are in picture {number}?", "answers": answers, "kind": "count"}
        rows.append({**make_record(number), "regions": texts, "qa": [question]})
    (folder / "data").mkdir()
    rows = Dataset.from_list(rows, features=FINECAP_FEATURES)
    rows.to_parquet(folder / "data" / "test-00000-of-00001.parquet")
    return folder
