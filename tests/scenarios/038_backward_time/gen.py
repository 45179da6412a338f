"""Stamps that go backwards are clamped; the frames are handled in file order."""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from scenario import *  # noqa: E402,F403

s = Scenario(__file__)
for step_ms in (0, -1000, 500, -86400000, 100000000):
    s.wait(step_ms)
    p = built(tcp4("A"))
    s.sent(request(p), frame(ipip(p, B1)), "web", "b1")
s.write()
