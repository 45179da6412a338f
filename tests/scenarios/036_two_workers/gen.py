"""With several workers the output is in input order, and the same as with one."""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from scenario import *  # noqa: E402,F403

s = Scenario(__file__)
for i in range(100):
    p = built(tcp4("S", src="198.51.100.%d" % (1 + i % 60), sport=30000 + i))
    s.sent(request(p), frame(ipip(p, B1)), "web", "b1")
    p = built(udp6(src="2001:db8:1::%x" % (1 + i), sport=20000 + i))
    s.sent(request(p), frame(ipip(p, B1)), "dns", "b1")
s.write(args=["--workers", "2"])
