"""Who computes next: live streams, short files, long files."""

import threading
import time

from asr.server.computing_turns import SHORT_S, Turns


def wait_until(condition):
    until = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.001)


def start(turns, name, order, steps=1, spin_s=0.0, used_s=0.0):
    turn = turns.file()
    turn.used_s = used_s

    def work():
        with turn:
            for _ in range(steps):
                order.append(name)
                end = time.perf_counter() + spin_s
                while time.perf_counter() < end:
                    pass
                turn.pause()

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_a_file_that_has_computed_less_goes_first():
    turns, order = Turns(), []
    with turns.live():
        threads = [start(turns, "long", order, used_s=1.0)]
        wait_until(lambda: len(turns._waiting) == 1)
        threads.append(start(turns, "short", order, used_s=0.5))
        wait_until(lambda: len(turns._waiting) == 2)
    for thread in threads:
        thread.join(120)
    assert order == ["short", "long"]


def test_live_streams_go_before_files_that_wait():
    turns, order = Turns(), []
    gate = threading.Event()

    def live():
        with turns.live():
            order.append("live")

    first = turns.file()
    with first:
        other = start(turns, "file", order)
        wait_until(lambda: turns._waiting)
        thread = threading.Thread(target=live)
        thread.start()
        wait_until(lambda: turns._live_waits)
        gate.set()
    thread.join(120)
    other.join(120)
    assert order == ["live", "file"]


def test_a_file_pauses_for_live_streams_in_the_middle():
    turns, order = Turns(), []

    def live():
        with turns.live():
            order.append("live")

    turn = turns.file()
    with turn:
        thread = threading.Thread(target=live)
        thread.start()
        wait_until(lambda: turns._live_waits)
        order.append("before")
        turn.pause()
        order.append("behind")
    thread.join(120)
    assert order == ["before", "live", "behind"]


def test_files_go_on_while_live_streams_compute_all_the_time():
    turns, order = Turns(), []
    stop = threading.Event()

    def live():
        while not stop.is_set():
            with turns.live():
                time.sleep(0.02)

    thread = threading.Thread(target=live)
    thread.start()
    file = start(turns, "file", order, steps=3)
    file.join(120)
    stop.set()
    thread.join(120)
    assert order == ["file"] * 3


def test_two_long_files_take_turns():
    turns, order = Turns(), []
    with turns.live():
        threads = [start(turns, name, order, steps=3, spin_s=0.06, used_s=SHORT_S) for name in "ab"]
        wait_until(lambda: len(turns._waiting) == 2)
    for thread in threads:
        thread.join(120)
    assert order in (list("ababab"), list("bababa"))


def test_the_longest_stretch_without_a_pause_is_measured():
    turn = Turns().file()
    with turn:
        end = time.thread_time() + 0.05
        while time.thread_time() < end:
            pass
        time.sleep(0.1)  # is no computing
        turn.pause()
        turn.pause()
    assert 0.05 <= turn.longest_s < 0.15
