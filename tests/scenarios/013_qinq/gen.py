"""Two tags, 802.1ad outside and 802.1Q inside, or 802.1Q twice, stay; three tags are the kernel's."""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from scenario import *  # noqa: E402,F403

s = Scenario(__file__)
for tags in ([(0x88a8, 100), (0x8100, 7)], [(0x8100, 100), (0x8100, 7)]):
    p = built(tcp4("S"))
    s.sent(request(p, tags), frame(ipip(p, B1), tags=tags), "web", "b1")
    p = built(tcp4("S", dport=82))
    s.sent(request(p, tags), frame(p, dst=MAC1, tags=tags), "l2", "b1")
s.punted(request(built(tcp4("S")), [(0x88a8, 100), (0x8100, 7), (0x8100, 8)]))
s.write()
