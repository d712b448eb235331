"""The first signal lets a command save and exit, the second ends it; SIGHUP is left alone under nohup."""

import signal
import sys
import threading

import pytest

from gpt.signals import GracefulExit, exit_signals


@pytest.mark.parametrize("number", exit_signals())
def test_the_first_signal_is_recorded_and_the_second_raises(number):
    before = signal.getsignal(number)
    with GracefulExit() as exit_requested:
        assert not exit_requested
        signal.raise_signal(number)
        assert exit_requested
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
    assert signal.getsignal(number) is before


def test_outside_the_main_thread_signals_are_left_alone():
    seen = []

    def body():
        with GracefulExit() as exit_requested:
            seen.append(bool(exit_requested))

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert seen == [False]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGHUP")
def test_a_hangup_is_ignored_where_it_was_ignored_before():
    assert signal.SIGHUP in exit_signals()
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert signal.SIGHUP not in exit_signals()
        with GracefulExit() as exit_requested:
            signal.raise_signal(signal.SIGHUP)
            assert not exit_requested
    finally:
        signal.signal(signal.SIGHUP, before)
