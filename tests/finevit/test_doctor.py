"""`finevit doctor` tells what is wrong, and what is not there without being wrong."""

import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import torch
from packaging.requirements import Requirement

from finevit import doctor


@pytest.fixture
def server():
    class Answers(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Answers) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{listening.server_port}"
        listening.shutdown()


def test_what_is_missing_or_of_another_version_is_to_be_mended(monkeypatch):
    needed = [Requirement(line) for line in ("torch>=1", "pillow<1", "no-such-package>=2", "trl; extra == 'train'")]
    monkeypatch.setattr(doctor, "_requirements", lambda: needed)
    mends = {finding.name: finding.mend for finding in doctor.packages()}
    assert mends["torch"] == ""
    assert mends["pillow"].startswith("pip install 'pillow<1'")
    assert mends["no-such-package"] == "pip install 'no-such-package>=2' (no-such-package is not installed)"
    assert "trl" not in mends


def test_an_extra_that_is_not_there_is_no_fault(monkeypatch):
    lines = ("trl; extra == 'train'", "no-such-package; extra == 'serve'")
    monkeypatch.setattr(doctor, "_requirements", lambda: [Requirement(line) for line in lines])
    found = {finding.name: finding for finding in doctor.extras()}
    assert found["train"].said == "installed"
    assert found["serve"].said == "lacks no-such-package (not installed): pip install 'finevit[serve]'"
    assert not found["serve"].mend
    assert not {"demo", "dev"} & set(found)


def test_attention_is_tried_against_eager(monkeypatch):
    before = torch.get_rng_state()
    found = {finding.name: finding for finding in doctor.attention("cpu")}
    assert list(found) == list(doctor.IMPLEMENTATIONS)
    assert found["sdpa"].said.startswith("works")
    assert "by sdpa" in found["torch_varlen"].said
    assert not any(finding.mend for finding in found.values())
    assert torch.equal(torch.get_rng_state(), before)
    right = doctor._features
    monkeypatch.setattr(doctor, "_features", lambda name, *rest: right("eager", *rest) + (name == "sdpa"))
    wrong = {finding.name: finding for finding in doctor.attention("cpu")}
    assert wrong["sdpa"].said.startswith("WRONG, 1e+00")
    assert "other features than eager" in wrong["sdpa"].mend


def test_features_that_are_no_numbers_are_wrong(monkeypatch):
    monkeypatch.setattr(doctor, "_features", lambda *_: torch.full((2, 2), torch.nan))
    assert all(finding.mend for finding in doctor.attention("cpu"))


def test_little_disk_is_to_be_mended_also_of_a_folder_that_is_not_there_yet(tmp_path, monkeypatch):
    assert not next(doctor.disk(tmp_path / "not" / "there")).mend
    monkeypatch.setattr(doctor, "LITTLE_DISK", 2**70)
    assert "make room" in next(doctor.disk(tmp_path)).mend


def test_the_hub_is_asked_unless_told_not_to(server, monkeypatch):
    monkeypatch.setattr(doctor.constants, "HF_HUB_OFFLINE", False)
    assert doctor.hub(server).name == "answers"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        silent = doctor.hub(f"http://127.0.0.1:{free.getsockname()[1]}")
    assert silent.name == "does not answer"
    assert not silent.mend
    monkeypatch.setattr(doctor.constants, "HF_HUB_OFFLINE", True)
    assert doctor.hub(server).name == "not asked"


def test_the_status_says_whether_something_has_to_be_mended(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "examine", lambda: iter([doctor.Finding("Disk", "1 GiB free", "/tmp")]))
    assert doctor.doctor() == 0
    monkeypatch.setattr(doctor, "examine", lambda: iter([doctor.Finding("Disk", "1 GiB free", "/tmp", "make room")]))
    assert doctor.doctor() == 1
    assert capsys.readouterr().out.endswith("To mend\n  make room\n")
