"""Ethernet padding is not part of the datagram and does not travel into the tunnel."""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from scenario import *  # noqa: E402,F403

s = Scenario(__file__)
p = built(tcp4("A"))
padded = bytes(request(p)).ljust(60, b"\0")
s.sent(padded, frame(ipip(p, B1)), "web", "b1")
s.sent(bytes(request(p)) + b"trailer of any kind" * 3, frame(ipip(p, B1)), "web", "b1")
p = built(tcp4("A", dport=82))
s.sent(bytes(request(p)).ljust(64, b"\xee"), frame(p, dst=MAC1), "l2", "b1")
s.write()
