"""What was found stays after a kill, and counts only under the conditions that it was found under."""

import os
import signal
import sqlite3
import subprocess
import sys
from functools import partial

import pytest

from finevit_eval.kept import Kept

HERE = {"weights": "abc", "batch_size": 4}


def test_what_was_put_is_there_when_it_is_opened_again(tmp_path):
    with Kept(tmp_path / "new" / "k", HERE) as kept:
        kept.put({"a": b"1", "b": b"2"})
        kept.put({"b": b"3"})
    with Kept(tmp_path / "new" / "k", HERE) as kept:
        assert kept.get(["a", "b", "c"]) == {"a": b"1", "b": b"3"}


def test_what_was_kept_under_other_conditions_is_not_seen(tmp_path):
    with Kept(tmp_path / "k", HERE) as kept:
        kept.put({"a": b"1"})
    with Kept(tmp_path / "k", {**HERE, "weights": "abd"}) as kept:
        assert kept.get(["a"]) == {}
        kept.put({"a": b"2"})
    with Kept(tmp_path / "k", HERE) as kept:
        assert kept.get(["a"]) == {"a": b"1"}, "runners of one command share the file"


def test_a_kill_leaves_what_was_put_before(tmp_path):
    code = (
        "import os, signal, sys; from pathlib import Path; from finevit_eval.kept import Kept\n"
        "kept = Kept(Path(sys.argv[1]), {'weights': 'abc', 'batch_size': 4})\n"
        "kept.put({'a': b'1'})\n"
        "kept._database.execute(\"INSERT INTO kept VALUES ('b', x'02', 'd')\")\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "k")], env={**os.environ}, check=False)
    assert done.returncode == -signal.SIGKILL
    with Kept(tmp_path / "k", HERE) as kept:
        assert kept.get(["a", "b"]) == {"a": b"1"}


def test_a_damaged_file_is_begun_anew(tmp_path):
    (tmp_path / "k").write_bytes(bytes(range(256)) * 40)
    with Kept(tmp_path / "k", HERE) as kept:
        assert kept.get(["a"]) == {}
        kept.put({"a": b"1"})
    with Kept(tmp_path / "k", HERE) as kept:
        assert kept.get(["a"]) == {"a": b"1"}


def test_a_file_that_another_process_is_writing_is_left_alone(tmp_path, monkeypatch):
    with Kept(tmp_path / "k", HERE) as kept:
        kept.put({"a": b"1"})
    with sqlite3.connect(tmp_path / "k") as other:
        other.execute("BEGIN EXCLUSIVE")
        monkeypatch.setattr("finevit_eval.kept.sqlite3.connect", partial(sqlite3.connect, timeout=0))
        with pytest.raises(sqlite3.OperationalError):
            Kept(tmp_path / "k", HERE)
    monkeypatch.undo()
    with Kept(tmp_path / "k", HERE) as kept:
        assert kept.get(["a"]) == {"a": b"1"}
