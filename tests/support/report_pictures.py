"""Does a run keep the pictures that its report shows?"""

from pathlib import Path

from finevit_eval.result import load_results, load_samples
from finevit_eval.shown import drawn, failures, kept_pictures, pictures_file, seed_of


def lacks_pictures(run: Path) -> dict[str, list[str]]:
    """Ids of pictures that a report of the run would show and does not have, by evaluation; empty if all is there."""
    results, lacking = load_results(run), {}
    for name in results["tasks"]:
        samples, seed = load_samples(run, name), seed_of(name, results["receipt"])
        shown = [*drawn(samples, seed), *failures(samples, seed)]
        wanted = {one for sample in shown for one in (sample["group"], *sample.get("confused", ()))}
        if missing := sorted(wanted - set(kept_pictures(pictures_file(run, name)))):
            lacking[name] = missing
    return lacking
