"""The input may be pcapng."""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from scenario import *  # noqa: E402,F403

s = Scenario(__file__)
for flags in ("S", "A", "PA", "FA"):
    p = built(tcp4(flags))
    s.sent(request(p), frame(ipip(p, B1)), "web", "b1")
s.punted(request(built(tcp4("S", dst="192.0.2.9"))))
s.write(pcapng=True)
