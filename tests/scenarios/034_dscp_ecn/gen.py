"""DSCP and ECN are copied to the outer header in all four pairs of families (RFC 6040, normal mode)."""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from scenario import *  # noqa: E402,F403

s = Scenario(__file__)
for tos in (0x00, 0x01, 0x02, 0x03, 0x28, 0xb8, 0xbb, 0xff):
    p = built(tcp4("A", tos=tos))
    s.sent(request(p), frame(ipip(p, B1)), "a", "b1")
    p = built(tcp4("A", dport=81, tos=tos))
    s.sent(request(p), frame(ipip(p, B1_6)), "b", "b1")
    p = built(tcp6("A", tc=tos))
    s.sent(request(p), frame(ipip(p, B1)), "c", "b1")
    p = built(tcp6("A", dport=81, tc=tos))
    s.sent(request(p), frame(ipip(p, B1_6)), "d", "b1")
s.write(masks=["flow_label"])
