"""What README and docs tell to type is understood, and their Python runs."""

import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import finevit_cli
from finecap.recipe_files import find_recipe
from finevit_training.recipe import parse_recipe
from finevit_training.stages.contrastive.arguments import CONTRASTIVE_PARTS
from finevit_training.stages.mim.arguments import MIM_PARTS
from finevit_training.stages.sft.arguments import SFT_PARTS
from tests.support.pages import PAGES, blocks, commands
from tests.support.paths import NANO, ROOT
from tests.support.picture_text_models import save_dual
from tests.support.published_sets import write_urban1k
from tests.support.small_folders import save_qwen_vl

PARTS = {"vl_sft": SFT_PARTS, "mim": MIM_PARTS, "contrastive": CONTRASTIVE_PARTS, "align": SFT_PARTS}
COMMANDS = [(page.relative_to(ROOT), words) for page in PAGES for words in commands(page)]
PYTHON = [
    (page.relative_to(ROOT), number, text)
    for page in PAGES
    if page.parent.name != "sample"
    for number, text in enumerate(blocks(page, "python"))
]


def id_of(value):
    return " ".join(value)[:60] if isinstance(value, list) else str(value)[:20].replace("\n", " ")


def check_finevit(words):
    arguments, rest = finevit_cli._parser().parse_known_args([word for word in words if word != "&"])
    assert not rest or arguments.command == "serve"
    recipe = getattr(arguments, "recipe", None)
    written_by_a_page = [words[-1] for _, words in COMMANDS if words[0] == "cat"]
    if arguments.command == "caption" and recipe not in ("status", "RECIPE", *written_by_a_page):
        find_recipe(recipe, "finecap.engine")


def check_accelerate(words):
    assert words.pop(0) == "launch"
    if words[0] == "--config_file":
        assert (ROOT / words[1]).is_file()
        del words[:2]
    if words[0] == "-m":
        script = words[1].removeprefix("finevit_training.")
        del words[:1]
    else:
        assert (ROOT / words[0]).is_file()
        script = Path(words[0]).stem
    parse_recipe(words[1:], PARTS[script])


@pytest.mark.parametrize(("page", "words"), COMMANDS, ids=id_of)
def test_a_command_is_understood(page, words):
    program, *rest = words
    if program == "finevit":
        check_finevit(rest)
    elif program == "accelerate":
        check_accelerate(rest)
    elif program == "torchrun":
        assert rest[0] == "--nproc_per_node"
        assert (ROOT / rest[2]).is_file()
        parse_recipe(rest[3:])
    elif program == "make":
        assert re.search(rf"^{rest[0]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    else:
        assert program in ("python", "cat", "source", "pip", "vllm", "hf"), words


def test_every_page_has_been_read():
    assert len(COMMANDS) > 15
    assert len(PYTHON) >= 4


@pytest.fixture
def user_folder(tmp_path, monkeypatch):
    """A folder in which what the pages name is there."""
    (tmp_path / "outputs" / "demo").mkdir(parents=True)
    (tmp_path / "outputs" / "demo" / "model").symlink_to(NANO)
    step = tmp_path / "outputs" / "captions" / "passes" / "ingest-0"
    step.mkdir(parents=True)
    pq.write_table(pa.table({"key": ["a"], "reject": ["truncated: x"]}), step / "00000.parquet")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("page", "number", "text"), PYTHON, ids=id_of)
def test_python_runs(page, number, text, user_folder, request):
    if "Qwen2.5-VL" in text:
        request.getfixturevalue("qwen_folder")
    if "mteb" in text:
        request.getfixturevalue("retrieval_folder")
    names = {"images": [Image.new("RGB", (90, 50)), Image.new("RGB", (28, 84))], "picture": Image.new("RGB", (90, 50))}
    exec(compile(text, f"{page}, block {number}", "exec"), names)
    assert set(names) - {"images", "picture", "__builtins__"}


@pytest.fixture
def qwen_folder(user_folder) -> Path:
    """A random Qwen2.5-VL of the smallest size where the pages look for the real one."""
    return save_qwen_vl(user_folder / "path" / "to" / "Qwen2.5-VL-3B-Instruct")


@pytest.fixture
def retrieval_folder(user_folder, monkeypatch) -> Path:
    """A random model of pictures and texts, and a small Urban-1k; mteb keeps its scores here."""
    save_dual(user_folder / "outputs" / "contrastive")
    write_urban1k(user_folder / "data" / "urban1k", 3)
    monkeypatch.setenv("MTEB_CACHE", str(user_folder / "mteb"))
    return user_folder
