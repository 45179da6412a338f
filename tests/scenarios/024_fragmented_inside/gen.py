"""IPv4 without DF that does not fit is cut inside the tunnel; the outer header still has DF."""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from scenario import *  # noqa: E402,F403

s = Scenario(__file__)
for dport, wrap, room, service in [(53, ipip, 1456, "dns"), (54, gre, 1456, "gre")]:
    p = built(udp4(dport=dport, payload=bytes(i % 251 for i in range(1472)), flags=0))
    assert len(p) == 1500
    pieces = [built(f) for f in fragment(p, fragsize=room)]
    s.sent_in_pieces(request(p), [frame(wrap(f, B1)) for f in pieces], service, "b1")
s.write()
