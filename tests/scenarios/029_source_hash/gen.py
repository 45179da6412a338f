"""hash = "source": all flows of a client meet one backend, whatever their ports; clients spread."""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from scenario import *  # noqa: E402,F403

s = Scenario(__file__)
groups = []
for client in range(1, 9):
    group = []
    for sport in range(40000, 40010):
        p = built(tcp4("S", src="198.51.100.%d" % client, sport=sport))
        group.append(len(s.frames))
        s.sent(request(p), b"", "web", None)
        del s.frames[-1]["backend"]
    groups.append(group)
s.write(compare_output=False, groups=groups)
