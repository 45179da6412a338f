"""A smaller MTU on the way to a backend is learnt from errors about our own packets, and told to clients, for ten minutes."""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from scenario import *  # noqa: E402,F403

s = Scenario(__file__)
V1_6 = "fd00:2::23"


large = built(tcp4("A", payload=b"x" * (1476 - 40)))
fitting = built(tcp4("A", payload=b"x" * (1376 - 40)))
tunnelled = built(gre(large, B1))
s.sent(request(large), frame(gre(large, B1)), "web4", "b1")
# Forged: about a packet to no backend of ours, and about one whose inner destination is no VIP.
for forged in [IP(src=LB4, dst=B3, flags="DF", id=0, proto=47) / Raw(bytes(tunnelled)[20:]),
               gre(built(tcp4("A", dst="203.0.113.99", payload=b"x" * (1476 - 40))), B1)]:
    s.punted(request(built(IP(src="10.0.3.1", dst=LB4, ttl=60) / ICMP(type=3, code=4, nexthopmtu=1400) / Raw(bytes(built(forged))[:548]))))
s.sent(request(large), frame(gre(large, B1)), "web4", "b1")
# Ours, with as little as routers quote.
s.punted(request(built(IP(src="10.0.3.1", dst=LB4, ttl=60) / ICMP(type=3, code=4, nexthopmtu=1400) / Raw(bytes(tunnelled)[:28]))))
s.dropped(request(large), "too_big", [frame(built(too_big4(large, 1376)))])
s.sent(request(fitting), frame(gre(fitting, B1)), "web4", "b1")
# Another backend's path is another one.
other = built(udp4(payload=b"y" * (1476 - 28)))
s.sent(request(other), frame(gre(other, B2)), "dns4", "d1")

large6 = built(tcp6("A", payload=b"x" * (1456 - 60)))
s.sent(request(large6), frame(gre(large6, V1_6)), "web6", "v1")
e = IPv6(src="fd00:3::1", dst=LB6, hlim=60) / ICMPv6PacketTooBig(mtu=1400) / Raw(bytes(built(gre(large6, V1_6)))[:1232])
s.punted(request(built(e)))
s.dropped(request(large6), "too_big", [frame(built(too_big6(large6, 1356)))])
s.wait(599_990)
s.dropped(request(large), "too_big", [frame(built(too_big4(large, 1376)))])
s.wait(20)
s.sent(request(large), frame(gre(large, B1)), "web4", "b1")
s.sent(request(large6), frame(gre(large6, V1_6)), "web6", "v1")
s.write(masks=["flow_label", "ipv4_id", "ipv4_dont_fragment", "originated_tos", "quote_length"])
