"""`finevit caption` as a user meets it: a small run, its status, and what is said of bad input."""

import json

import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from finevit_cli import main

RECIPE = {"ingest": {"source": "mine", "license": "CC0-1.0"}, "filter": {"min_short_side": 32}, "ocr": {}}


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(RECIPE))
    return path


def says(capsys, *arguments):
    """Exit code, and what was printed for the user."""
    code = main(["caption", *map(str, arguments)])
    output = capsys.readouterr()
    return code, output.err or output.out


def sign(words):
    """A sign that OCR can read."""
    from PIL import ImageDraw, ImageFont

    image = Image.new("RGB", (320, 160), (250, 250, 245))
    draw = ImageDraw.Draw(image)
    draw.rectangle((10, 10, 310, 150), outline=(180, 30, 30), width=6)
    draw.text((40, 50), words, fill=(20, 20, 20), font=ImageFont.load_default(48))
    return image


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    sign("EXIT 12").save(folder / "sign.png")
    whole = (folder / "sign.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    Image.new("RGB", (1, 1)).save(folder / "dot.png")
    Image.new("L", (40_000, 40)).save(folder / "banner.png")
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "page.jpg").write_text("<html>404</html>")
    return folder


def test_every_picture_ends_as_a_record_or_with_its_reason(recipe, pictures, tmp_path, capsys):
    out = tmp_path / "out"
    code, _ = says(capsys, recipe, "--in", pictures, "--out", out, "--workers", 1)
    assert code == 0
    assert main(["caption", "status", str(out), "--json"]) == 0
    status = json.loads(capsys.readouterr().out)
    assert (status["images"], status["records"], status["rejected"]) == (6, 1, 5)
    rejects = {name: count for one in status["passes"] for name, count in one["rejects"].items()}
    assert rejects == {"truncated": 1, "too small": 1, "aspect ratio": 1, "not a picture": 2}
    [file] = (out / "dataset" / "data").glob("*.parquet")
    [record] = pq.read_table(file).to_pylist()
    assert "EXIT 12" in [region["text"] for region in record["regions"]]
    assert record["provenance"]["ocr"].startswith("rapidocr")
    assert (out / "dataset" / "README.md").is_file()
    assert (out / "reports" / "filter.html").is_file()

    before = {path: path.stat().st_mtime_ns for path in (out / "passes").rglob("*.parquet")}
    assert says(capsys, recipe, "--in", pictures, "--out", out, "--workers", 1)[0] == 0
    assert {path: path.stat().st_mtime_ns for path in (out / "passes").rglob("*.parquet")} == before

    (pictures / "new.png").write_bytes((pictures / "sign.png").read_bytes())
    code, text = says(capsys, recipe, "--in", pictures, "--out", out)
    assert (code, "began with other input" in text) == (2, True)


def test_a_dry_run_does_nothing(recipe, pictures, tmp_path, capsys):
    code, text = says(capsys, recipe, "--in", pictures, "--out", tmp_path / "out", "--dry-run")
    assert (code, "6 images" in text) == (0, True)
    assert not (tmp_path / "out").exists()


def test_bad_input_is_said_plainly(recipe, pictures, tmp_path, capsys):
    (tmp_path / "none").mkdir()
    (tmp_path / "list.yaml").write_text("- a\n- b\n")
    cases = [
        ([recipe, "--in", tmp_path / "nowhere", "--out", tmp_path / "o"], "no such file or folder"),
        ([recipe, "--in", tmp_path / "none", "--out", tmp_path / "o"], "no pictures"),
        ([recipe, "--in", pictures], "--out"),
        ([tmp_path / "no.yaml", "--in", pictures, "--out", tmp_path / "o"], "does not exist"),
        ([tmp_path / "list.yaml", "--in", pictures, "--out", tmp_path / "o"], "expected a mapping"),
        ([recipe, "--in", pictures, "--out", tmp_path / "o", "--only", "boxes"], "runs no pass 'boxes'"),
        (["status"], "Give its folder"),
        (["status", tmp_path], "no run of the caption engine"),
    ]
    for arguments, message in cases:
        code, text = says(capsys, *arguments)
        assert (code, message in text) == (2, True), (arguments, text)
    assert not (tmp_path / "o").exists()
