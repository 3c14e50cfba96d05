"""`finevit recipes`: its names are those that the commands take, and a copy is as good as the shipped file."""

import re

import pytest
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env

from finecap.engine.recipe import load_recipe
from finecap.recipe_files import find_recipe
from finevit_cli import main
from finevit_training.recipe import read_recipe


def listed(capsys) -> dict[str, list[str]]:
    """Names by the command that takes them."""
    assert main(["recipes"]) == 0
    groups: dict[str, list[str]] = {}
    use = ""
    for line in capsys.readouterr().out.splitlines():
        if not line.startswith(" "):
            use = line.rstrip(":")
            continue
        groups.setdefault(use, []).append(line.split()[0])
    return groups


def test_every_name_is_taken_by_the_command_it_is_listed_under(capsys):
    groups = listed(capsys)
    (captions,) = (names for use, names in groups.items() if use.startswith("finevit caption NAME"))
    trainings = groups["accelerate launch -m finevit_training.vl_sft --recipe NAME"]
    assert groups["accelerate launch -m finevit_training.mim --recipe NAME"] == ["mim/nano_cpu", "mim/paper"]
    assert {"caption_offline", "caption_full"} == set(captions)
    assert {"sft/gpu_1x", "sft/nano_cpu"} <= set(trainings)
    assert all(load_recipe(name) for name in captions)
    assert all(read_recipe(name) for name in trainings)
    assert [names for use, names in groups.items() if use.startswith("accelerate launch --config_file")] == [
        ["accelerate/fsdp2_8x", "accelerate/fsdp2_encoder_8x", "accelerate/hsdp_2x8", "accelerate/hsdp_encoder_2x8"]
    ]


@pytest.mark.parametrize("name", ["fsdp2_8x", "fsdp2_encoder_8x", "hsdp_2x8", "hsdp_encoder_2x8"])
def test_accelerates_launcher_makes_of_a_configuration_what_it_says(name):
    """Of the environment that it gives to the processes of a node."""
    path = find_recipe(f"accelerate/{name}", "finevit_training")
    flags = ["--config_file", str(path), "--machine_rank", "1", "--main_process_ip", "localhost", "train.py"]
    parsed, *_ = _validate_launch_command(launch_command_parser().parse_args(flags))
    environment = prepare_multi_gpu_env(parsed)
    assert (environment["ACCELERATE_USE_FSDP"], environment["FSDP_VERSION"]) == ("true", "2")
    assert environment["ACCELERATE_MIXED_PRECISION"] == "bf16"
    sizes = [environment.get(f"PARALLELISM_CONFIG_DP_{kind}_SIZE") for kind in ("REPLICATE", "SHARD")]
    assert sizes == (["2", "8"] if name.startswith("hsdp") else [None, None])
    assert (parsed.num_machines, parsed.num_processes) == ((2, 16) if name.startswith("hsdp") else (1, 8))


def test_a_recipe_is_shown_as_it_is(capsys):
    assert main(["recipes", "show", "sft/gpu_1x"]) == 0
    assert capsys.readouterr().out == find_recipe("sft/gpu_1x", "finevit_training").read_text()


def test_a_copy_is_written_here_or_where_it_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["recipes", "copy", "sft/gpu_1x"]) == 0
    assert main(["recipes", "copy", "sft/gpu_1x", "--out", "deep/mine.yaml"]) == 0
    for path in (tmp_path / "gpu_1x.yaml", tmp_path / "deep" / "mine.yaml"):
        assert read_recipe(path) == read_recipe("sft/gpu_1x")


def test_a_copied_caption_recipe_finds_its_prompts(tmp_path, capsys):
    assert main(["recipes", "copy", "caption_offline", "--out", str(tmp_path / "mine.yaml")]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    prompts = load_recipe(tmp_path / "mine.yaml").passes["recaption"].prompts
    assert str(prompts) == str(tmp_path / "caption_nano_prompts.yaml")


def test_nothing_is_written_over(tmp_path, capsys):
    (tmp_path / "mine.yaml").write_text("mine")
    assert main(["recipes", "copy", "sft/gpu_1x", "--out", str(tmp_path / "mine.yaml")]) == 2
    assert "exists" in capsys.readouterr().err
    assert (tmp_path / "mine.yaml").read_text() == "mine"


@pytest.mark.parametrize("action", ["show", "copy"])
def test_an_unknown_name_is_refused_with_those_there_are(action, capsys):
    assert main(["recipes", action, "gpu_1x"]) == 2
    assert re.search(r"no recipe gpu_1x; there are: .*; did you mean sft/gpu_1x\?$", capsys.readouterr().err)
