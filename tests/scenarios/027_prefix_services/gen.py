"""The most specific service wins: exact address and port, exact address, then prefixes, longest first."""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from scenario import *  # noqa: E402,F403

s = Scenario(__file__)
for dst, dport, name, address in [
    ("203.0.113.10", 80, "host", "10.0.2.23"),
    ("203.0.113.11", 80, "p28", "10.0.2.22"),
    ("203.0.113.15", 80, "p28", "10.0.2.22"),
    ("203.0.113.16", 80, "p24", "10.0.2.21"),
    ("203.0.113.255", 80, "p24", "10.0.2.21"),
    ("203.0.113.99", 443, "p24any", "10.0.2.24"),
    ("203.0.113.10", 443, "p24any", "10.0.2.24"),
]:
    p = built(tcp4("S", dst=dst, dport=dport))
    s.sent(request(p), frame(ipip(p, address)), name, name)
for dst, name, address in [("2001:db8:f::5", "v6p112", "10.0.2.26"), ("2001:db8:f::1:5", "v6p96", "10.0.2.25")]:
    p = built(tcp6("S", dst=dst))
    s.sent(request(p), frame(ipip(p, address)), name, name)
p = built(udp4(dst="203.0.113.77", dport=80))
e = IP(src="203.0.113.77", dst=C4, ttl=64, id=0, flags=0) / ICMP(type=3, code=3) / Raw(bytes(p))
s.dropped(request(p), "no_service", [frame(built(e))])
s.punted(request(built(tcp4("S", dst="203.0.114.1"))))
s.punted(request(built(tcp6("S", dst="2001:db8:f::1:0:0:5"))))
s.write(masks=["ipv4_id", "ipv4_dont_fragment", "originated_tos", "quote_length"])
