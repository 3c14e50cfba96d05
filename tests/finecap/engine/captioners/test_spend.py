"""The books of a run: shared by processes, never smaller than what was paid, whatever is killed or torn."""

import errno
import multiprocessing
import os
import signal
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finecap.engine.captioners import spend as module
from finecap.engine.captioners.ensemble import Captioner
from finecap.engine.captioners.spend import SLOT, Ledger, Spend, estimated, price, spent
from finecap.errors import StopRun

counts = st.integers(0, 10**12)


def test_the_price_of_an_answer_is_tokens_times_rates():
    captioner = Captioner(
        "a", "m", ("http://x/v1",), dollars_per_million_prompt_tokens=0.02, dollars_per_million_completion_tokens=3.0
    )
    one = price(captioner, 20, 10)
    assert one == Spend(1, 20, 10, 20 * 20 + 10 * 3000)  # 0.02 dollars a million are 20 nanodollars each
    assert sum([one] * 10**3, Spend()).dollars == pytest.approx(1000 * (20 * 0.02 + 10 * 3) / 1e6, rel=1e-12)


@settings(deadline=None)  # disks may be slow
@given(st.lists(st.tuples(counts, counts, counts), min_size=1, max_size=20))
def test_what_is_paid_is_on_the_file_at_once(tmp_path_factory, payments):
    out = tmp_path_factory.mktemp("out")
    ledger = Ledger(out)
    total = Spend()
    for payment in payments:
        ledger.pay(Spend(1, *payment))
        total += Spend(1, *payment)
        assert ledger.total() == spent(out) == total
    (path,) = (out / "spend").iterdir()
    assert path.stat().st_size <= 2 * SLOT
    ledger.close()


def test_estimates_count_and_can_be_told_from_what_servers_said(tmp_path):
    mine, other = Ledger(tmp_path), Ledger(tmp_path)
    mine.pay(Spend(1, 10, 5, 7))
    assert mine.estimate() == ""
    mine.pay(Spend(1, 100, 50, 70), by_estimate=True)
    other.pay(Spend(1, 1000, 500, 700), by_estimate=True)
    assert estimated(tmp_path) == Spend(2, 1100, 550, 770)
    assert mine.total() == other.total() == spent(tmp_path) == Spend(3, 1110, 555, 777)
    assert mine.estimate() == " (2 requests and 1650 tokens of that by estimate)"
    mine.close()
    assert spent(tmp_path).tokens == 1665


@settings(deadline=None)  # disks may be slow
@given(torn=st.binary(max_size=SLOT), writes=st.integers(1, 5))
def test_a_torn_write_loses_that_write_alone(tmp_path_factory, torn, writes):
    out = tmp_path_factory.mktemp("out")
    ledger = Ledger(out)
    for _ in range(writes):
        ledger.pay(Spend(1, 10, 10, 10))
    ledger.close()
    (path,) = (out / "spend").iterdir()
    with path.open("r+b") as file:  # the next write, cut off by a crash
        file.seek(SLOT * (writes % 2))
        file.write(torn)
    assert spent(out) == Spend(writes, 10 * writes, 10 * writes, 10 * writes)


def test_a_second_start_goes_on_where_the_first_was(tmp_path):
    first = Ledger(tmp_path)
    first.pay(Spend(3, 100, 20, 7))
    second = Ledger(tmp_path)
    second.pay(Spend(1, 1, 1, 1))
    assert second.total() == spent(tmp_path) == Spend(4, 101, 21, 8)


def test_the_others_are_seen_within_a_second_and_read_no_more_often(tmp_path, monkeypatch):
    mine, other = Ledger(tmp_path), Ledger(tmp_path)
    reads = []
    monkeypatch.setattr(module, "_read", lambda path, read=module._read: (reads.append(path), read(path))[1])
    other.pay(Spend(1, 5, 5, 5))
    assert mine.total().tokens == 10
    other.pay(Spend(1, 5, 5, 5))
    for _ in range(1000):
        assert mine.total().tokens == 10
    assert len(reads) == 1
    time.sleep(1.05)
    assert mine.total().tokens == 20


def _pay_until_killed(out, paid):
    ledger = Ledger(out)
    while True:
        ledger.pay(Spend(1, 2, 3, 5))
        paid.value += 1


def test_processes_killed_at_any_moment_stay_on_the_books(tmp_path):
    spawn = multiprocessing.get_context("fork")
    expected_least = expected_most = 0
    for pause in (0.02, 0.05, 0.08):
        paid = [spawn.Value("q", 0, lock=False) for _ in range(3)]
        workers = [spawn.Process(target=_pay_until_killed, args=(tmp_path, one)) for one in paid]
        for worker in workers:
            worker.start()
        deadline = time.monotonic() + 20
        while min(one.value for one in paid) < 10 and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(pause)
        for worker in workers:
            os.kill(worker.pid, signal.SIGKILL)
            worker.join()
        expected_least += sum(one.value for one in paid)
        expected_most += sum(one.value + 1 for one in paid)  # written, and killed before it was counted here
    total = spent(tmp_path)
    assert expected_least <= total.requests <= expected_most
    assert (total.prompt_tokens, total.nanodollars) == (2 * total.requests, 5 * total.requests)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_full_disk_stops_the_run(tmp_path, monkeypatch, number):
    def full(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(module.os, "pwrite", full)
    with pytest.raises(StopRun, match="cannot be written"):
        Ledger(tmp_path).pay(Spend(1, 1, 1, 1))


def test_an_empty_run_has_spent_nothing(tmp_path):
    assert spent(tmp_path) == Spend()
    assert Ledger(tmp_path).total() == Spend()
    assert list(tmp_path.iterdir()) == []
