"""The inner TTL or hop limit is not decremented, not even a 1."""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from scenario import *  # noqa: E402,F403

s = Scenario(__file__)
for ttl in (1, 2, 64, 255):
    p = tcp4("A")
    p.ttl = ttl
    p = built(p)
    s.sent(request(p), frame(ipip(p, B1)), "web", "b1")
    p = tcp6("A")
    p.hlim = ttl
    p = built(p)
    s.sent(request(p), frame(gre(p, B1)), "web6", "b1")
s.write()
