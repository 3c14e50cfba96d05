"""The command line itself: every command is there, and hands its arguments to the package that does the work."""

import re
from pathlib import Path

import pytest

from finevit_cli import _is_for_the_user, main
from finevit_cli.measuring import _read_curve

COMMANDS = ("", "corpus build", "data look", "eval", "features", "report", "ask", "ground", "demo")
EXPLAINED = ("corpus build", "caption", "detector", "eval", "features", "report", "ask", "ground", "demo")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*command.split(), "--help"])
    assert stop.value.code == 0
    assert "usage: finevit" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["paint"], ["ask", "model"], ["demo", "--fast"], ["--fast"]])
def test_wrong_usage_ends_with_2(arguments):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2


def test_without_a_command_the_help_is_shown(capsys):
    assert main([]) == 2
    said = capsys.readouterr().err
    assert all(command in said for command in ("usage: finevit", "corpus", "ask", "serve"))


@pytest.mark.parametrize(
    ("arguments", "usage", "meant"),
    [
        (["corpus", "build", "--out", "x", "--sized", "5"], "finevit corpus build", "--size"),
        (["eval", "--model", "m", "--dta", "d", "--out", "o"], "finevit eval", "--data"),
        (["ask", "m", "p.png", "Where?", "--devise", "cpu"], "finevit ask", "--device"),
        (["caption", "r", "--in", "i", "--ot", "o"], "finevit caption", "--out"),
        (["recipes", "copy", "r", "--ot=o"], "finevit recipes copy", "--out"),
    ],
)
def test_a_misspelt_flag_is_answered_with_its_commands_usage_and_the_flag_that_was_meant(
    arguments, usage, meant, capsys
):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith(f"usage: {usage} ")
    assert said.endswith(f"did you mean {meant}?\n")


@pytest.mark.parametrize("command", EXPLAINED)
def test_every_flag_and_argument_is_explained(command, capsys):
    """In the help each begins a line; one without help has nothing after its name, nor on a further indented line."""
    with pytest.raises(SystemExit):
        main([*command.split(), "--help"])
    lines = capsys.readouterr().out.splitlines()
    for line, after in zip(lines, [*lines[1:], ""], strict=True):
        if re.match(r"  (--)?[a-z]", line):
            assert "  " in line.strip() or after.startswith(" " * 10), line


def test_a_corpus_is_built_and_read_back(tmp_path, capsys):
    import datasets

    arguments = ["corpus", "build", "--out", str(tmp_path / "corpus"), "--size", "40", "--workers", "1"]
    assert main([*arguments, "--kinds", "easyvqa=1", "--seed", "3"]) == 0
    assert "40 rows" in capsys.readouterr().out
    records = datasets.load_dataset(str(tmp_path / "corpus"), split="train", cache_dir=str(tmp_path / "cache"))
    assert isinstance(records, datasets.Dataset)
    assert len(records) > 20


def test_shares_of_kinds_must_be_numbers(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["corpus", "build", "--out", str(tmp_path), "--kinds", "doc"])
    assert "is not name=number" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["corpus", "build", "--out", "x", "--difficulty", "huge"], "choose from nano, small, base, full"),
        (["corpus", "build", "--out", "x", "--size", "0"], "0 is not a whole number from 1 up"),
        (["eval", "--model", "m", "--data", "d", "--out", "o", "--limit", "0"], "0 is not a whole number from 1 up"),
        (["eval", "--model", "m", "--data", "d", "--out", "o", "--tasks", "ocr"], "unrecognized arguments: --tasks"),
        (["eval", "--model", "m", "--data", "d", "--out", "o", "--dtype", "float33"], "choose from auto, float32"),
        (["recipes", "paint"], "choose from show, copy"),
    ],
)
def test_a_value_that_cannot_be_is_refused_with_those_that_can(arguments, reason, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert reason in capsys.readouterr().err.replace("'", "")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--executor", "slurm", "--only", "ingest"], "no effect on what is submitted to Slurm"),
        (["--executor", "slurm", "--leave-out-failed"], "no effect on what is submitted to Slurm"),
        (["--assume", "a.yaml"], "no effect without --dry-run"),
        (["pictures"], "only `status` takes a folder there"),
    ],
)
def test_options_of_caption_that_would_do_nothing_are_refused(options, reason, tmp_path, capsys):
    command = ["caption", "caption_offline", *options, "--in", str(tmp_path), "--out", str(tmp_path / "out")]
    assert main(command) == 2
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_report_needs_evaluations(tmp_path, capsys):
    assert main(["report", str(tmp_path), str(tmp_path), "--out", str(tmp_path / "report.html")]) == 2
    assert "finevit eval" in capsys.readouterr().err
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize("text", [None, "{", '{"loss": 1}', "[1, 2]"])
def test_a_curve_that_is_none_is_named(tmp_path, text):
    path = tmp_path / "curve.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match=r"curve\.json.*training curve"):
        _read_curve(path)


def test_serve_hands_its_options_to_transformers(capsys):
    assert main(["serve", "--help"]) == 0
    assert "--port" in capsys.readouterr().out


def test_demo_runs_where_it_is_told(monkeypatch):
    demo = pytest.importorskip("finevit.demo", reason="finevit/demo.py is not there yet")
    seen: list[Path] = []
    monkeypatch.setattr(demo, "run_demo", lambda out: seen.append(out) or 3)
    assert main(["demo", "--out", "somewhere"]) == 3
    assert seen == [Path("somewhere")]


def test_a_mistake_of_the_users_is_one_line_and_a_bug_is_a_traceback(tmp_path, capsys, monkeypatch):
    def build_corpus(*_, **__):
        return int("no number")  # a ValueError, but none that anybody wrote for a user

    assert main(["corpus", "build", "--out", str(tmp_path), "--size", "5"]) == 2
    assert capsys.readouterr().err.startswith("finevit: size is 5, too small")
    monkeypatch.setattr("finecap.corpus.build.build_corpus", build_corpus)
    with pytest.raises(ValueError, match="no number"):
        main(["corpus", "build", "--out", str(tmp_path)])


@pytest.mark.parametrize(
    ("code", "shown"),
    [
        ("raise ValueError(\n    'give a folder'\n)", True),
        ("import json\njson.loads('{')", False),
        ("[].index(3)", False),
        ("try:\n    int('x')\nexcept ValueError as error:\n    raise ValueError('a number') from error", True),
    ],
)
@pytest.mark.parametrize("module", ["finecap.files", "finevit_eval.suite", "some_library"])
def test_only_what_our_code_raises_is_for_the_user(code, shown, module, tmp_path):
    (tmp_path / "module.py").write_text(code)
    with pytest.raises(ValueError) as raised:
        exec(compile(code, str(tmp_path / "module.py"), "exec"), {"__name__": module})
    assert _is_for_the_user(raised.value) == (shown and module != "some_library")
