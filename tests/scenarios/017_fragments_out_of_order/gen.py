"""Later pieces that come first wait for the first piece, and leave behind it."""
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


for pieces, service in [(pieces4(1), "dns4"), (pieces6(2), "dns6"), (pieces4(3, piece=800), "dns4")]:
    for f in reversed(pieces):
        s.sent(request(f), frame(ipip(f, B1)), service, "b1")
s.write(masks=["order"])
