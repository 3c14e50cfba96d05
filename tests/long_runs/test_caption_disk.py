"""A full disk and a read-only folder: a clear error, nothing half-written, and the same command goes on afterwards.

The disk is a real file system of one megabyte, mounted in a namespace of the test's own.
"""

import shutil
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from tests.support.paths import ROOT

IMAGES = 40

SCRIPT = """
set -u
mount -t tmpfs -o size=1m tmpfs "$OUT"
caption() {{
  "{python}" -m finevit_cli caption "{recipe}" --in "{pictures}" --out "$OUT" --workers 2; echo "exit $?"
}}
echo "# full"; caption
find "$OUT" -name '*.tmp'
mount -o remount,size=64m,ro "$OUT"
echo "# read-only"; caption
mount -o remount,size=64m,rw "$OUT"
echo "# again"; caption
cp -r "$OUT/dataset" "{copy}"
"""


def can_mount() -> bool:
    if shutil.which("unshare") is None:
        return False
    return (
        subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True).returncode
        == 0
    )


@pytest.mark.slow
@pytest.mark.skipif(not can_mount(), reason="mounting a small file system needs user namespaces or root")
def test_a_full_or_read_only_disk_loses_nothing(tmp_path):
    pictures, out, recipe = tmp_path / "pictures", tmp_path / "out", tmp_path / "recipe.yaml"
    pictures.mkdir()
    out.mkdir()
    pixels = np.random.default_rng(0)
    for number in range(IMAGES):  # noise: about 45 KB each, so one megabyte is full before the end
        Image.fromarray(pixels.integers(0, 255, (128, 128, 3), dtype=np.uint8)).save(pictures / f"{number:03d}.png")
    recipe.write_text(
        yaml.safe_dump(
            {
                "rows_per_shard": 10,
                "ingest": {"source": "noise", "license": "CC0-1.0"},
                "filter": {"min_short_side": 32},
                "pack": {"function": f"{__name__}:names_alone"},
            }
        )
    )
    values = {"python": sys.executable, "recipe": recipe, "pictures": pictures, "copy": tmp_path / "copy"}
    ran = subprocess.run(
        ["unshare", "-rm", "bash", "-c", SCRIPT.format(**values)],
        capture_output=True,
        text=True,
        env={"OUT": str(out), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONPATH": str(ROOT)},
        timeout=300,
    )
    full, readonly, again = ran.stdout.split("# ")[1:]
    assert full.splitlines() == ["full", "exit 2"], ran.stderr  # and no half-written file was found
    assert readonly.splitlines() == ["read-only", "exit 2"], ran.stderr
    assert again.splitlines()[-1] == "exit 0", ran.stderr
    assert "No space left on device" in ran.stderr
    assert "Read-only file system" in ran.stderr
    assert "Traceback" not in ran.stderr
    names = [
        name
        for path in (tmp_path / "copy" / "data").glob("*.parquet")
        for name in pq.read_table(path, columns=["id"])["id"].to_pylist()
    ]
    assert len(set(names)) == len(names) == IMAGES


def names_alone(rows, options, context):
    """Noise has nothing to say, so the packed record is made here: its id, picture and a caption."""
    for row in rows:
        image = {"bytes": row["image"], "path": None}
        yield {**row, "image": image, "global_caption": "noise", "regions": [], "qa": [], "captions": []}
