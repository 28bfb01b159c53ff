"""An interrupt ends a command, not in the middle of a foreign call, and does not get lost."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import suppress

import pytest

from vesearch.system.interrupts import TerminatedError, deferred, delivered


@pytest.mark.parametrize(
    ("number", "kind"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, TerminatedError)]
)
def test_a_signal_is_an_exception_at_once(
    number: signal.Signals, kind: type[KeyboardInterrupt]
) -> None:
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt) as caught, delivered():
        os.kill(os.getpid(), number)
        pytest.fail("it went on")
    assert type(caught.value) is kind
    assert signal.getsignal(number) is before


def test_a_signal_that_was_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with delivered():
            os.kill(os.getpid(), signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)


def test_in_a_deferred_span_it_waits_for_the_outermost_end() -> None:
    done = []
    with pytest.raises(TerminatedError), delivered():
        with deferred():
            with deferred():
                os.kill(os.getpid(), signal.SIGTERM)
                done.append("inner")
            done.append("outer")
        pytest.fail("it went on")
    assert done == ["inner", "outer"]
    with deferred():  # nothing is left of it
        pass


def test_one_that_was_swallowed_is_raised_again() -> None:
    with pytest.raises(KeyboardInterrupt), delivered():
        with suppress(KeyboardInterrupt):  # as Python does in a destructor
            os.kill(os.getpid(), signal.SIGINT)
        with deferred():
            pass
        pytest.fail("it went on")


def test_in_another_thread_nothing_is_changed() -> None:
    seen = []

    def other() -> None:
        with delivered(), deferred():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGTERM)]
