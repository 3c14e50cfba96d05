"""The data engine installs and starts without the heavy libraries."""

import subprocess
import sys

HEAVY = ("torch", "transformers", "datasets", "spacy", "duckdb", "ray", "rapidocr", "onnxruntime", "cv2")


def test_the_engine_imports_nothing_heavy():
    code = "import sys, finecap.engine.command; print(*[name for name in sys.argv[1:] if name in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code, *HEAVY], capture_output=True, text=True, check=True)
    assert loaded.stdout.split() == []


def test_the_check_would_notice():
    code = "import sys, finecap.features; print(*[name for name in sys.argv[1:] if name in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code, *HEAVY], capture_output=True, text=True, check=True)
    assert "datasets" in loaded.stdout.split()
