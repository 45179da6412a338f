"""hash = "tuple": every packet of a flow meets the backend of its first."""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from scenario import *  # noqa: E402,F403

s = Scenario(__file__)
groups = [[] for _ in range(40)]
for flags in ("S", "A", "PA", "PA", "FA", "A"):
    for flow in range(40):
        p = built(tcp4(flags, src="198.51.100.%d" % (flow + 1), sport=30000 + flow))
        groups[flow].append(len(s.frames))
        s.sent(request(p), b"", "web", None)
        del s.frames[-1]["backend"]
    s.wait(200)
s.write(args=["--workers", "2"], compare_output=False, groups=groups)
