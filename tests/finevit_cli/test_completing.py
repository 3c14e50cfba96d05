"""A shell completes what the command line knows: tried in bash itself."""

import shutil
import subprocess

import pytest

from finevit_cli import main
from finevit_cli.completing import SHELLS


@pytest.fixture
def in_bash(tmp_path, capsys):
    """The completions of a line, whose last word is being typed."""
    if shutil.which("bash") is None:
        pytest.skip("there is no bash")
    assert main(["completion", "bash"]) == 0
    script = tmp_path / "completion.bash"
    script.write_text(capsys.readouterr().out)

    def complete(line):
        words = line.split(" ")
        asked = f"COMP_WORDS=({' '.join(words)} ''); COMP_CWORD={len(words) - 1}; _shtab_finevit"
        command = f"source {script}; {asked}; printf '%s\\n' \"${{COMPREPLY[@]}}\""
        done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout.split()

    return complete


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("finevit ev", ["eval"]),
        ("finevit eval --max-p", ["--max-pixels"]),
        ("finevit features p.png --save n", ["npz"]),
        ("finevit xyz", []),
    ],
)
def test_commands_options_and_choices_are_completed(line, found, in_bash):
    assert in_bash(line) == found


def test_files_are_completed_where_a_path_is_meant(tmp_path, in_bash):
    (tmp_path / "pictures").mkdir()
    assert in_bash("finevit corpus build --out pic") == ["pictures"]
    assert in_bash("finevit corpus build --difficulty pic") == []


@pytest.mark.parametrize("shell", SHELLS)
def test_each_shell_gets_a_script(shell, capsys):
    assert main(["completion", shell]) == 0
    assert "features" in capsys.readouterr().out
