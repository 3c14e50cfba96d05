"""The samples that a report shows: some of each evaluation, with their pictures."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finevit_eval.report.runs import Run
from finevit_eval.report.scores import samples_of, title_of
from finevit_eval.result import load_samples
from finevit_eval.shown import KeptPicture, Sample, drawn, failures, is_right, kept_pictures, pictures_file, seed_of

MOST_CONFUSED = 4


@dataclass(frozen=True)
class Example:
    """A sample to show.

    Attributes:
        title, metric: Of its evaluation.
        model: Whose answer it is.
        sample: As the run wrote it, see `finevit_eval.result.Outcome`.
        picture: That the sample is about, if the run kept it.
        confused: Pictures that were taken for it, those of them that the run kept.
        blind: The sample of the blind run.
    """

    title: str
    metric: str
    model: str
    sample: Sample
    picture: KeptPicture | None = None
    confused: Sequence[KeptPicture] = ()
    blind: Sample | None = None


@dataclass(frozen=True)
class Examples:
    """Samples by how they were chosen: by seed and not by success, and of the failures the surest or, where no sample
    says how sure it is, by seed too. No sample is in both.
    """

    drawn: list[Example]
    failed: list[Example]


def pick_examples(runs: Sequence[Run], n: int = 12) -> Examples:
    """Choose samples, the same number of each evaluation, with the seed of the run.

    Of several runs of an evaluation the one of the model that was trained longest is shown, or the first.

    Args:
        n: How many of each way of choosing in all; the first evaluations get one more where it does not divide.
    """
    names = dict.fromkeys(name for run in runs for name in run.results["tasks"])
    longest = sorted(runs, key=lambda run: samples_of(run) or 0, reverse=True)
    places = {name: next(run for run in longest if name in run.results["tasks"]) for name in names}
    chosen = Examples([], [])
    for position, (name, run) in enumerate(places.items()):
        share = n // len(places) + (position < n % len(places))
        samples, seed = load_samples(run.folder, name), seed_of(name, run.results["receipts"]["score"])
        by_seed = drawn(samples, seed)[:share]
        met = {sample["id"] for sample in by_seed}
        wrong = [sample for sample in failures(samples, seed) if sample["id"] not in met][:share]
        chosen.drawn.extend(_examples(run, name, by_seed))
        chosen.failed.extend(_examples(run, name, wrong))
    return chosen


def _examples(run: Run, name: str, samples: Sequence[Sample]) -> Iterator[Example]:
    pictures = kept_pictures(pictures_file(run.folder, name))
    blind: Mapping[str, Any] = {}
    if run.blind_folder:
        blind = {sample["id"]: sample for sample in load_samples(run.blind_folder, name)}
    for sample in samples:
        confused = [pictures[other] for other in sample.get("confused", ()) if other in pictures][:MOST_CONFUSED]
        yield Example(
            title_of(name),
            run.results["tasks"][name]["metric"],
            run.label,
            sample,
            pictures.get(sample["group"]),
            confused,
            blind.get(sample["id"]),
        )


def num_right(examples: Sequence[Example]) -> int:
    """How many of the examples are right."""
    return sum(is_right(example.sample) for example in examples)
