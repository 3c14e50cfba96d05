"""What captioners cost is counted exactly, and a spent budget stops the run."""

from dataclasses import replace

import pytest

from finecap.engine.captioners.client import Answer, chat_client
from finecap.engine.captioners.ensemble import Budget
from finecap.engine.captioners.spend import Ledger, Spend, spent
from finecap.engine.running.concurrency import event_loop, map_bounded
from finecap.errors import StopRun
from tests.support.asking import JPEG, Asking, asking_in, captioner, context
from tests.support.faulty_server import FaultyServer


def test_a_spent_budget_stops_the_run_and_keeps_what_was_under_way(tmp_path):
    """Each answer is 109 tokens or so; the overshoot is what was in flight, and no paid answer is thrown away."""
    with FaultyServer(latency=0.05, jitter=0.05) as server:
        here = context(tmp_path, captioner(server), {}, "s", Budget(tokens=3000))
        rows = [{"key": str(number)} for number in range(100)]
        with pytest.raises(StopRun, match="budget of 3000 tokens spent"):
            map_bounded(asking_in(here), rows, 8, event_loop(here))
        event_loop(here).run_until_complete(chat_client(here).close())
        assert 3000 <= spent(tmp_path).tokens < 3000 + 8 * 120
        assert server.answers.total() == len(server.asked) == len(here.journal)


def test_a_captioner_that_stops_the_run_lets_the_answers_of_the_others_arrive(tmp_path):
    models, kept = {}, 0
    with FaultyServer(latency=0.4) as slow, FaultyServer(latency=0.2, status=404) as unknown:
        good, bad = captioner(slow), replace(captioner(unknown), name="other")
        rows = [{"key": str(number)} for number in range(50)]
        for shard in "ab":  # the second time with the same client, in a process that is kept
            here = context(tmp_path, good, models, shard)

            async def one(row, here=here):
                options = {"key": row["key"], "journal": here.journal, "counters": here.counters, "max_tokens": 9}
                who = bad if row["key"] == "3" else good
                return await chat_client(here).ask(who, here.shard + row["key"], [JPEG], **options)

            with pytest.raises(StopRun, match="does not know this model"):
                map_bounded(one, rows, 8, event_loop(here))
            kept += len(here.journal)
        event_loop(here).run_until_complete(chat_client(here).close())
    assert len(unknown.asked) == 2
    assert slow.answers.total() == len(slow.asked) == kept == 2 * 7


def test_what_earlier_starts_and_other_workers_paid_counts(tmp_path):
    other = Ledger(tmp_path)
    other.pay(Spend(10, 900, 100, 1_500_000_000))
    with FaultyServer() as server:
        for budget in (Budget(tokens=1000), Budget(dollars=1.5)):
            (error,) = Asking(tmp_path, captioner(server), budget).ask_all([0]).values()
            assert "budget of" in str(error)
        assert not server.asked
        (answer,) = Asking(tmp_path, captioner(server), Budget(tokens=1001, dollars=1.6)).ask_all([0]).values()
        assert isinstance(answer, Answer)


def test_dollars_are_counted_exactly_however_little_one_answer_costs(tmp_path):
    rates = {"dollars_per_million_prompt_tokens": 0.003, "dollars_per_million_completion_tokens": 0.01}
    with FaultyServer() as server:
        asking = Asking(tmp_path, captioner(server, **rates))
        results = asking.ask_all(range(50))
    expected = sum(one.prompt_tokens * 0.003 + one.completion_tokens * 0.01 for one in results.values())
    assert spent(tmp_path).dollars * 1e6 == pytest.approx(expected, rel=1e-9)
    assert asking.counters["microdollars"] == int(expected + 1e-6)
