"""ICMP echo to a VIP is answered by the balancer: TTL 64, options stripped, DSCP copied, payload and tag kept."""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from scenario import *  # noqa: E402,F403

s = Scenario(__file__)
for size, tos, tags in [(0, 0, ()), (56, 0, ()), (57, 0xb8, ()), (1472, 0, [(0x8100, 7)])]:
    body = bytes(i % 251 for i in range(size))
    p = built(IP(src=C4, dst=VIP4, ttl=60, tos=tos) / ICMP(type=8, id=0x77, seq=3) / Raw(body))
    r = IP(src=VIP4, dst=C4, ttl=64, tos=tos, id=0, flags=0) / ICMP(type=0, id=0x77, seq=3) / Raw(body)
    s.dropped(request(p, tags), "answered", [frame(built(r), tags=tags)])
    s.wait(1000)
p = built(IP(src=C4, dst=VIP4, ttl=60, options=[IPOption(b"\x07\x07\x04\x00\x00\x00\x00\x00")]) / ICMP(type=8, id=1, seq=1) / Raw(b"o"))
r = IP(src=VIP4, dst=C4, ttl=64, id=0, flags=0) / ICMP(type=0, id=1, seq=1) / Raw(b"o")
s.dropped(request(p), "answered", [frame(built(r))])
for size in (0, 56, 1000):
    s.wait(1000)
    body = bytes(i % 251 for i in range(size))
    p = built(IPv6(src=C6, dst=VIP6, hlim=60) / ICMPv6EchoRequest(id=0x77, seq=3) / Raw(body))
    r = IPv6(src=VIP6, dst=C6, hlim=64) / ICMPv6EchoReply(id=0x77, seq=3) / Raw(body)
    s.dropped(request(p), "answered", [frame(built(r))])
s.write(masks=["ipv4_id", "ipv4_dont_fragment", "flow_label"])
