"""Leases on pieces: whoever dies, stops or wakes up, each piece has one output that counts."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from aurora_pool.jobs.claims import Claims, Lease, LeaseLost
from aurora_pool.sharing import Roster

TAKEOVER = 30.0
RECORDS = 6


class Clock:
    """A monotonic clock that is set by hand; each machine may have its own."""

    def __init__(self, start: float) -> None:
        self.now = start

    def __call__(self) -> float:
        return self.now


class Driver:
    """One driver as its own machine sees time: takes pieces, writes records, beats, all one step at a time."""

    def __init__(self, folder: Path, pieces: int, clock: Clock, rng: random.Random) -> None:
        self.clock = clock
        self.roster = Roster(folder / "drivers", takeover_after=TAKEOVER, now=clock)
        self.claims = Claims(folder, pieces, self.roster, rng=rng)
        self.rng = rng
        self.lost = 0

    def work(self) -> Iterator[None]:
        """Yield after each step that another process could see, or be seen in."""
        while True:
            self.claims.renew()
            yield
            lease = self.claims.take(lambda: None)
            yield
            if lease is None:
                self.claims.refresh()
                if not self.claims.open_pieces:
                    return
                continue
            try:
                yield from self.answer(lease)
            except LeaseLost:
                self.lost += 1
                self.claims.give_up(lease)

    def answer(self, lease: Lease) -> Iterator[None]:
        there = set(lease.output.read_text().split()) if lease.output.exists() else set()
        for number in range(RECORDS):
            if str(number) not in there:
                lease.check()
                if self.rng.random() < 0.2:
                    yield  # stopped between the check and the write
                with lease.output.open("a") as file:
                    file.write(f"{number}\n")
                yield
                if self.roster.every <= self.clock.now % TAKEOVER:
                    self.claims.renew()
        self.claims.finish(lease)
        yield


def test_drivers_that_die_stop_and_wake_up_leave_one_whole_output_for_each_piece(tmp_path: Path) -> None:
    lost = sum(drive_to_the_end(tmp_path / str(seed), random.Random(seed)) for seed in range(60))
    assert lost > 20  # it did happen that one woke up too late


def drive_to_the_end(folder: Path, rng: random.Random) -> int:
    """Run three drivers, some of which are killed or stopped; return how many leases were lost while one slept."""
    pieces = 5
    drivers: list[Driver] = []
    steps: dict[int, Iterator[None]] = {}
    asleep: Counter[int] = Counter()
    for _ in range(20_000):
        while len(steps) < 3:
            # Clocks have nothing in common: not even roughly the same time.
            driver = Driver(folder, pieces, Clock(rng.uniform(0, 1e9)), rng)
            drivers.append(driver)
            steps[len(drivers) - 1] = driver.work()
        for driver in drivers:
            driver.clock.now += rng.uniform(0, 4)
        chosen = rng.choice(list(steps))
        if asleep[chosen]:
            asleep[chosen] -= 1
            continue
        fate = rng.random()
        if fate < 0.01:
            del steps[chosen]  # killed
            continue
        if fate < 0.04:
            asleep[chosen] = rng.randrange(1, 60)  # stopped, and woken up later
            continue
        if next(steps[chosen], "over") == "over":
            break
    else:
        pytest.fail("the pieces are never done")
    for steps_left in steps.values():  # whoever is left wakes up, and must change nothing that counts
        for _ in range(100):
            if next(steps_left, "over") == "over":
                break
    for number in range(pieces):
        counts = (folder / "done" / f"{number:05}").read_text().split()
        assert sorted(counts) == [str(each) for each in range(RECORDS)]
    return sum(driver.lost for driver in drivers)


def test_a_lease_is_lost_when_another_driver_has_the_next_one_and_kept_when_it_has_not(tmp_path: Path) -> None:
    clocks = Clock(0.0), Clock(5e8)
    first, second = (
        Claims(tmp_path, 2, Roster(tmp_path / "drivers", takeover_after=TAKEOVER, now=clock)) for clock in clocks
    )
    leases = [first.take(lambda: None), first.take(lambda: None)]
    assert second.take(lambda: None) is None  # the first is alive
    taken, idle = None, 0
    while taken is None:
        clocks[1].now += 5
        idle += 5
        second.renew()
        taken = second.take(lambda: None)
    assert idle == TAKEOVER
    clocks[0].now += 40
    by_number = {lease.number: lease for lease in leases if lease is not None}
    with pytest.raises(LeaseLost, match=r"\.1\.jsonl: another driver has taken over this piece"):
        by_number.pop(taken.number).check()
    (kept,) = by_number.values()
    kept.check()
    assert kept.records == 1
    assert second.finish(taken)
    second.refresh()
    assert second.open_pieces == [kept.number]
    assert second.take(lambda: None) is None  # the first has beaten since


def test_what_a_dead_driver_had_answered_is_kept_and_a_driver_that_leaves_need_not_be_waited_for(
    tmp_path: Path,
) -> None:
    first, second = (Claims(tmp_path, 1, Roster(tmp_path / "drivers", takeover_after=TAKEOVER)) for _ in range(2))
    lease = first.take(lambda: None)
    assert lease is not None
    lease.output.write_text("one\ntorn")
    first.roster.leave()
    taken = second.take(lambda: None)
    assert taken is not None
    assert taken.output != lease.output
    assert taken.output.read_text() == "one\ntorn"
    lease.output.write_text("one\nlate\n")
    assert second.finish(taken)
    assert not first.finish(lease)
    assert (tmp_path / "done" / "00000").read_text() == "one\ntorn"
