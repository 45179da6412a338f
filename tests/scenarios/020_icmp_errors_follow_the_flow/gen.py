"""An ICMP error for a VIP goes where the quoted flow goes, encapsulated like it."""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from scenario import *  # noqa: E402,F403

s = Scenario(__file__)
p = built(tcp4("S"))
s.sent(request(p), frame(ipip(p, B1)), "web4", "b1")
# what the backends answered, as a router on the way to the client would quote it
answer = built(IP(src=VIP4, dst=C4, flags="DF") / TCP(sport=80, dport=40000, flags="A") / Raw(b"z" * 1400))
for e in [
    IP(src="192.0.2.1", dst=VIP4, ttl=60) / ICMP(type=3, code=4, nexthopmtu=1400) / Raw(bytes(answer)[:28]),
    IP(src="192.0.2.1", dst=VIP4, ttl=60) / ICMP(type=11, code=0) / Raw(bytes(answer)[:548]),
    IP(src=C4, dst=VIP4, ttl=60) / ICMP(type=3, code=3) / Raw(bytes(answer)[:40]),
]:
    e = built(e)
    s.sent(request(e), frame(ipip(e, B1)), "web4", "b1")
answer = built(IP(src=VIP4, dst=C4) / UDP(sport=53, dport=5000) / Raw(b"z" * 100))
e = built(IP(src=C4, dst=VIP4, ttl=60) / ICMP(type=3, code=3) / Raw(bytes(answer)[:28]))
s.sent(request(e), frame(ipip(e, B2)), "dns4", "d1")
answer = built(IPv6(src=VIP6, dst=C6) / TCP(sport=80, dport=40000, flags="A") / Raw(b"z" * 1400))
for e in [
    IPv6(src="2001:db8:9::1", dst=VIP6, hlim=60) / ICMPv6PacketTooBig(mtu=1400) / Raw(bytes(answer)[:1232]),
    IPv6(src=C6, dst=VIP6, hlim=60) / ICMPv6DestUnreach(code=1) / Raw(bytes(answer)[:60]),
]:
    e = built(e)
    s.sent(request(e), frame(ipip(e, B3)), "web6", "v1")
# one that quotes too little to name a flow
e = built(IP(src="192.0.2.1", dst=VIP4, ttl=60) / ICMP(type=3, code=1) / Raw(bytes(answer)[:20]))
s.dropped(request(e), "bad_icmp")
s.write()
