"""Records that several ranks have left out are one record each, in the log as in the file."""

from finevit_training.data.reader import Skip
from finevit_training.loop import skips


def test_a_record_that_two_ranks_have_met_is_counted_once(trainer_for, monkeypatch):
    trainer = trainer_for()
    trainer.skipped |= {"a": "unreadable: cut", "b": "unreadable: gone"}
    monkeypatch.setattr(skips, "gather_object", lambda mine: [*mine, {"b": "unreadable: gone", "c": "no picture"}])
    logs = {"loss": 1.0, "learning_rate": 1e-4}
    trainer.log(logs)
    assert logs["skipped_records"] == 3


def test_a_row_that_does_not_fit_the_run_is_listed_and_not_counted_unless_it_is_bad_too():
    skipped: dict[str, str] = {}
    for skip in (Skip("a", "its first turn does not fit", False), Skip("b", "unreadable: cut", True)):
        skips.add_skip(skipped, skip)
    assert skipped == {"a": "passed over: its first turn does not fit", "b": "unreadable: cut"}
    assert skips.bad_rows(skipped) == 1
    assert skips.kinds_of_reasons(skipped) == ({"unreadable": 1}, {"its first turn does not fit": 1})
    skips.add_skip(skipped, Skip("a", "unreadable: gone", True))
    skips.add_skip(skipped, Skip("b", "its first turn does not fit", False))
    assert skipped == {"a": "unreadable: gone", "b": "unreadable: cut"}
