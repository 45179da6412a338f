"""A VIP's port without a service is dropped by name and answered (RST, or port unreachable for UDP), a protocol without one is dropped; other destinations and ARP go to the kernel."""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from scenario import *  # noqa: E402,F403

s = Scenario(__file__)
rst = IP(src=VIP4, dst=C4, ttl=64, id=0, flags=0) / TCP(sport=81, dport=40000, flags="RA", seq=0, ack=1001, window=0)
s.dropped(request(built(tcp4("S", dport=81))), "no_service", [frame(built(rst))])
p = built(udp4(dport=80))
e = IP(src=VIP4, dst=C4, ttl=64, id=0, flags=0) / ICMP(type=3, code=3) / Raw(bytes(p))
s.dropped(request(p), "no_service", [frame(built(e))])
rst = IPv6(src=VIP6, dst=C6, hlim=64) / TCP(sport=443, dport=40000, flags="RA", seq=0, ack=1001, window=0)
s.dropped(request(built(tcp6("S", dport=443))), "no_service", [frame(built(rst))])
s.dropped(request(built(tcp4("R", dport=81))), "no_service")
s.dropped(request(built(IP(src=C4, dst=VIP4, proto=47) / Raw(b"\0" * 24))), "no_service")
s.punted(request(built(tcp4("S", dst="10.0.2.11", dport=22))))
s.punted(request(built(tcp6("S", dst="fd00:2::11", dport=22))))
s.punted(Ether(dst="ff:ff:ff:ff:ff:ff", src=ROUTER) / ARP(op=1, hwsrc=ROUTER, psrc="10.0.2.1", pdst="10.0.2.11"))
s.punted(request(built(IPv6(src="fe80::1", dst="ff02::1:ff00:11", hlim=255) / ICMPv6ND_NS(tgt="fd00:2::11"))))
p = built(tcp4("S"))
s.sent(request(p), frame(ipip(p, B1)), "web", "b1")
s.write(masks=["ipv4_id", "ipv4_dont_fragment", "originated_tos", "quote_length", "flow_label"])
