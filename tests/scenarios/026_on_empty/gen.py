"""A service without a usable backend resets (RST, or port unreachable for UDP) or stays silent, as on_empty says."""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from scenario import *  # noqa: E402,F403

s = Scenario(__file__)
p = built(tcp4("S"))
rst = IP(src=VIP4, dst=C4, ttl=64, id=0, flags=0) / TCP(sport=80, dport=40000, flags="RA", seq=0, ack=1001, window=0)
s.dropped(request(p), "no_backend", [frame(built(rst))], service="reset")
s.wait(1000)
p = built(IP(src=C4, dst=VIP4, ttl=63, flags="DF") / TCP(sport=40001, dport=80, flags="PA", seq=5, ack=777) / Raw(b"abc"))
rst = IP(src=VIP4, dst=C4, ttl=64, id=0, flags=0) / TCP(sport=80, dport=40001, flags="R", seq=777, ack=0, window=0)
s.dropped(request(p), "no_backend", [frame(built(rst))], service="reset")
s.wait(1000)
s.dropped(request(built(tcp4("R", sport=40002))), "no_backend", service="reset")
s.dropped(request(built(tcp4("S", dport=81))), "no_backend", service="silent")
p = built(udp4())
e = IP(src=VIP4, dst=C4, ttl=64, id=0, flags=0) / ICMP(type=3, code=3) / Raw(bytes(p))
s.wait(1000)
s.dropped(request(p), "no_backend", [frame(built(e))], service="dns")
s.wait(1000)
rst = IPv6(src=VIP6, dst=C6, hlim=64) / TCP(sport=80, dport=40000, flags="RA", seq=0, ack=1001, window=0)
s.dropped(request(built(tcp6("S"))), "no_backend", [frame(built(rst))], service="reset6")
s.wait(1000)
p = built(udp6())
e = IPv6(src=VIP6, dst=C6, hlim=64) / ICMPv6DestUnreach(code=4) / Raw(bytes(p))
s.dropped(request(p), "no_backend", [frame(built(e))], service="dns6")
s.write(masks=["ipv4_id", "ipv4_dont_fragment", "originated_tos", "quote_length", "flow_label"])
