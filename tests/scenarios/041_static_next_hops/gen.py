"""Without next_hop_mac a backend's own mac is its next hop; in vxlan and geneve it is the inner destination as well."""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from scenario import *  # noqa: E402,F403

s = Scenario(__file__)
p = built(tcp4("S"))
s.sent(request(p), frame(ipip(p, B1), dst=MAC1), "ipip", "b1")
p = built(tcp4("S", dport=81))
s.sent(request(p), frame(vxlan(p, B2, MAC2), dst=MAC2), "vxlan", "b1")
p = built(tcp4("S", dport=82))
s.sent(request(p), frame(geneve(p, B2, MAC2), dst=MAC2), "geneve", "b1")
s.write(masks=["udp_source_port"])
