"""At MTU 1500 with an IPv4 outer header the largest inner datagram is 1480 (ipip), 1476 (gre), 1468 (gue), 1450 (vxlan, geneve); one byte more is answered from the VIP."""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from scenario import *  # noqa: E402,F403

s = Scenario(__file__)
for i, (mode, mtu) in enumerate([("ipip", 1480), ("gre", 1476), ("gue", 1468), ("vxlan", 1450), ("geneve", 1450)]):
    wrap = {"ipip": lambda p: frame(ipip(p, B1)), "gre": lambda p: frame(gre(p, B1)), "gue": lambda p: frame(gue(p, B1)),
            "vxlan": lambda p: frame(vxlan(p, B1, MAC1)), "geneve": lambda p: frame(geneve(p, B1, MAC1))}[mode]
    fits, over = (built(tcp4("PA", dport=80 + i, payload=b"m" * (n - 40))) for n in (mtu, mtu + 1))
    s.sent(request(fits), wrap(fits), mode, "b1")
    s.dropped(request(over), "too_big", [frame(built(too_big4(over, mtu)))])
    s.wait(2000)
    fits, over = (built(tcp6("PA", dport=80 + i, payload=b"m" * (n - 60))) for n in (mtu, mtu + 1))
    s.sent(request(fits), wrap(fits), mode + "6", "b1")
    s.dropped(request(over), "too_big", [frame(built(too_big6(over, mtu)))])
    s.wait(2000)
s.write(masks=["udp_source_port", "ipv4_id", "ipv4_dont_fragment", "originated_tos", "quote_length"])
