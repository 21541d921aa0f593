"""Cameras that move together: who leads, and who only follows."""

import threading
import time
from collections.abc import Callable, Hashable


class Lead:
    """One of several cameras leads: whoever moved last keeps it until it has been still for `hold` seconds.

    A follower reports the pose that it was given as a move of its own, a little later; taken for one, old poses would
    come back to the leader.
    """

    def __init__(self, hold: float = 0.4, clock: Callable[[], float] = time.monotonic) -> None:
        self._hold, self._clock, self._lock = hold, clock, threading.Lock()
        self._leader: Hashable = None
        self._moved = float("-inf")

    def takes(self, who: Hashable) -> bool:
        """`who` has moved: does it lead?"""
        with self._lock:
            now = self._clock()
            if who != self._leader and now - self._moved < self._hold:
                return False
            self._leader, self._moved = who, now
            return True
