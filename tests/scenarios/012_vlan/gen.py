"""The request's 802.1Q tag, priority bits included, stays in front of what is sent, in every mode."""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from scenario import *  # noqa: E402,F403

s = Scenario(__file__)
tags = [(0x8100, 0xa007)]
p = built(tcp4("S"))
s.sent(request(p, tags), frame(ipip(p, B1), tags=tags), "a", "b1")
p = built(tcp4("S", dport=81))
s.sent(request(p, tags), frame(vxlan(p, B1, MAC1), tags=tags), "b", "b1")
p = built(tcp4("S", dport=82))
s.sent(request(p, tags), frame(p, dst=MAC1, tags=tags), "c", "b1")
p = built(tcp6("S"))
s.sent(request(p, tags), frame(gre(p, B1), tags=tags), "d", "b1")
s.write(masks=["udp_source_port"])
