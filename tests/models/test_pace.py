"""Blocks are as long as the machine is quick."""

import time

from asr.models.pace import FIRST_S, LONGEST_S, SHORTEST_S, TARGET_S, Pace


def test_a_slow_block_shortens_the_next_one_to_the_target_at_once():
    pace = Pace()
    pace.note(FIRST_S, 4 * TARGET_S)
    assert pace.block_s == FIRST_S / 4


def test_quick_blocks_lengthen_the_next_ones_little_by_little():
    pace = Pace()
    sizes = []
    for _ in range(20):
        pace.note(pace.block_s, TARGET_S / 2 * pace.block_s / FIRST_S)
        sizes.append(pace.block_s)
    assert sizes == sorted(sizes)
    assert FIRST_S < sizes[0] < 1.5 * FIRST_S
    assert abs(sizes[-1] - 2 * FIRST_S) < 0.01


def test_blocks_stay_within_their_bounds():
    slow, quick = Pace(), Pace()
    slow.note(1.0, 1000.0)
    for _ in range(100):
        quick.note(1.0, 0.0)
    assert slow.block_s == SHORTEST_S
    assert quick.block_s == LONGEST_S


def test_what_a_thread_computes_is_measured_and_what_it_waits_is_not():
    pace, waiting = Pace(), Pace()
    with pace.measuring(0.01):
        end = time.thread_time() + 0.02
        while time.thread_time() < end:
            pass
    with waiting.measuring(FIRST_S):
        time.sleep(10 * TARGET_S)
    assert pace.block_s == SHORTEST_S
    assert waiting.block_s > FIRST_S
