"""port = 0 takes every port of the VIP that has no service of its own; at others on_closed_port = "drop" is silent."""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from scenario import *  # noqa: E402,F403

s = Scenario(__file__)
for dport in (1, 22, 443, 65535):
    p = built(tcp4("S", dport=dport))
    s.sent(request(p), frame(ipip(p, B1)), "any", "b1")
p = built(tcp4("S", dport=80))
s.sent(request(p), frame(ipip(p, B2)), "web", "w1")
s.dropped(request(built(udp4(dport=443))), "no_service")
s.write()
