"""The script of stage III."""

import pytest

from finevit_training.align import main


def test_a_recipe_that_cannot_run_ends_with_one_line_of_the_script(nano_corpus, tmp_path):
    flags = ["--recipe", "align/nano_cpu", "--vision", str(tmp_path / "none"), "--data", str(nano_corpus)]
    with pytest.raises(SystemExit, match=r"align: `vision` is .* does not exist"):
        main([*flags, "--output_dir", str(tmp_path / "out")])
