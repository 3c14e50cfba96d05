"""Records that several ranks have left out are one record each, in the log as in the file."""

from finevit_training.loop import skips


def test_a_record_that_two_ranks_have_met_is_counted_once(trainer_for, monkeypatch):
    trainer = trainer_for()
    trainer.skipped |= {"a": "unreadable: cut", "b": "unreadable: gone"}
    monkeypatch.setattr(skips, "gather_object", lambda mine: [*mine, {"b": "unreadable: gone", "c": "no picture"}])
    logs = {"loss": 1.0, "learning_rate": 1e-4}
    trainer.log(logs)
    assert logs["skipped_records"] == 3
