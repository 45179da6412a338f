"""A backend that is down, draining or of weight 0 takes no new flow."""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from scenario import *  # noqa: E402,F403

s = Scenario(__file__)
for i in range(64):
    p = built(tcp4("S", sport=40000 + i))
    s.sent(request(p), frame(ipip(p, "10.0.2.24")), "web", "up")
s.write()
