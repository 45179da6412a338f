"""A piece whose first piece never comes is dropped by name after fragment_ms; one that comes later finds nobody."""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from scenario import *  # noqa: E402,F403

s = Scenario(__file__)
def pieces4(ident, size=3000, piece=1200):
    p = IP(src=C4, dst=VIP4, id=ident, ttl=63) / UDP(sport=5000, dport=53) / Raw(bytes(i % 251 for i in range(size)))
    return [built(f) for f in fragment(IP(bytes(p)), fragsize=piece)]


def pieces6(ident, size=3000):
    p = IPv6(src=C6, dst=VIP6, hlim=63) / IPv6ExtHdrFragment(id=ident) / UDP(sport=5000, dport=53, chksum=1) / Raw(
        bytes(i % 251 for i in range(size)))
    return [built(f) for f in fragment6(p, 1280)]


first, second, third = pieces4(1)
s.dropped(request(second), "fragment_timeout")
s.wait(5000)
whole = built(udp4())
s.sent(request(whole), frame(ipip(whole, B1)), "dns4", "b1")
s.wait(5000)
s.sent(request(first), frame(ipip(first, B1)), "dns4", "b1")
s.sent(request(third), frame(ipip(third, B1)), "dns4", "b1")
a, b, c = pieces6(9)
s.dropped(request(b), "fragment_timeout")
s.dropped(request(c), "fragment_timeout")
s.write()
