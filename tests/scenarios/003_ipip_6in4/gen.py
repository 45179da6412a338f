"""IPv6 requests reach an IPv4 backend as IP in IP, TCP and UDP."""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from scenario import *  # noqa: E402,F403

s = Scenario(__file__)
for flags, payload in [("S", b""), ("A", b""), ("PA", b"GET / HTTP/1.0\r\n\r\n"), ("FA", b""), ("R", b"")]:
    p = built(tcp6(flags, payload=payload))
    s.sent(request(p), frame(ipip(p, B1)), "web", "b1")
p = built(udp6())
s.sent(request(p), frame(ipip(p, B1)), "dns", "d1")
s.write()
