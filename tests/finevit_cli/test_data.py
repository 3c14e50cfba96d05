"""`finevit data look` prints what a source holds, and draws it where it is asked to."""

import pytest

from finevit_cli import main


def test_a_look_at_a_corpus(nano_corpus, tmp_path, capsys):
    assert main(["data", "look", str(nano_corpus), "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert f"{nano_corpus.name}: finecap, 1 part, 48 rows" in said
    assert said.splitlines()[-1] == str(tmp_path / "contact_sheet.png")
    assert (tmp_path / "contact_sheet.png").is_file()


def test_fewer_rows_are_read_and_nothing_is_written_unasked(nano_corpus, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["data", "look", str(nano_corpus), "--rows", "5"]) == 0
    assert "looked at 5 rows" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [(["nowhere"], "no such file or folder"), (["CORPUS", "--split", "test"], "holds no files of the split 'test'")],
)
def test_what_is_not_there_ends_with_2_and_says_so(nano_corpus, arguments, reason, capsys):
    arguments = [str(nano_corpus) if one == "CORPUS" else one for one in arguments]
    assert main(["data", "look", *arguments]) == 2
    assert reason in capsys.readouterr().err
