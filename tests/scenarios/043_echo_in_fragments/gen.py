"""An echo request in fragments is answered piece by piece, in any order; a fragmented ICMP error follows the flow it quotes."""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from scenario import *  # noqa: E402,F403

s = Scenario(__file__)
body = bytes(i % 251 for i in range(4000))


def pieces4(p, size=1200):
    return [built(f) for f in fragment(IP(bytes(p)), fragsize=size)]


def pieces6(p):
    return [built(f) for f in fragment6(p, 1280)]


def echo4(ident, size):
    """Request and reply, cut alike: scapy knows the checksum of each whole."""
    def cut(src, dst, ttl, kind):
        return pieces4(built(IP(src=src, dst=dst, ttl=ttl, id=ident) / ICMP(type=kind, id=0x77, seq=3) / Raw(body[:size])))
    return zip(cut(C4, VIP4, 60, 8), cut(VIP4, C4, 64, 0))


def echo6(ident, size):
    def cut(src, dst, hlim, kind):
        whole = built(IPv6(src=src, dst=dst, hlim=hlim) / kind(id=0x77, seq=3) / Raw(body[:size]))
        ip = IPv6(src=src, dst=dst, hlim=hlim) / IPv6ExtHdrFragment(id=ident, nh=58) / Raw(bytes(whole)[40:])
        return pieces6(ip)
    return zip(cut(C6, VIP6, 60, ICMPv6EchoRequest), cut(VIP6, C6, 64, ICMPv6EchoReply))


for pairs in [echo4(1, 2000), echo4(2, 4000), echo6(3, 2000), echo6(4, 3500)]:
    pairs = list(pairs)
    assert len(pairs) > 1
    for turned in (False, True):
        for request_piece, reply_piece in reversed(pairs) if turned else pairs:
            s.dropped(request(request_piece), "answered", [frame(reply_piece)])
    s.wait(2000)
# No piece waits any more: in order, turned round, and nothing is left over.
p = built(tcp4("S"))
s.sent(request(p), frame(ipip(p, B1)), "web4", "b1")
answer = built(IP(src=VIP4, dst=C4, flags="DF") / TCP(sport=80, dport=40000, flags="A") / Raw(b"z" * 1400))
error = built(IP(src="192.0.2.1", dst=VIP4, ttl=60, id=9) / ICMP(type=3, code=4, nexthopmtu=1400) / Raw(bytes(answer)))
for f in reversed(pieces4(error, 800)):
    s.sent(request(f), frame(ipip(f, B1)), "web4", "b1")
# Neither: its pieces are dropped like the whole.
other = built(IP(src=C4, dst=VIP4, ttl=60, id=10) / ICMP(type=13) / Raw(b"x" * 1500))
for f in pieces4(other):
    s.dropped(request(f), "icmp_unhandled")
s.write(masks=["order"])
