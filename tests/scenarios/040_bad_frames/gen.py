"""Broken layer 2, 3 and 4 are dropped, each by its name; inner TCP and UDP checksums are not verified."""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from scenario import *  # noqa: E402,F403

s = Scenario(__file__)
good = bytes(request(built(tcp4("PA", payload=b"12345678"))))


def edit(at, value, fix=False):
    f = bytearray(good)
    f[at:at + len(value)] = value
    if fix:
        p = IP(bytes(f[14:]))
        del p.chksum
        f[24:26] = bytes(p)[10:12]
    return bytes(f)


s.dropped(good[:13], "bad_ethernet")
s.dropped(edit(24, b"\0\0"), "bad_ipv4_checksum")
s.dropped(good[:14 + 19], "bad_ipv4")
s.dropped(good[:-1], "bad_ipv4")
f = bytearray(good)
f[14] = 0x44
s.dropped(bytes(f), "bad_ipv4")
p = built(IP(src=C4, dst=VIP4, flags="DF") / TCP(sport=1, dport=80, flags="A", dataofs=4))
s.dropped(request(p), "bad_tcp")
p = built(IP(src=C4, dst=VIP4, flags="DF") / TCP(sport=1, dport=80, flags="A", dataofs=15))
s.dropped(request(p), "bad_tcp")
p = built(IPv6(src=C6, dst=VIP6) / UDP(sport=1, dport=53, len=7) / Raw(b"abc"))
s.dropped(request(p), "bad_udp")
p = built(IPv6(src=C6, dst=VIP6) / UDP(sport=1, dport=53, len=1000) / Raw(b"abc"))
s.dropped(request(p), "bad_udp")
p = built(IPv6(src=C6, dst=VIP6, plen=100) / UDP(sport=1, dport=53) / Raw(b"abc"))
s.dropped(request(p), "bad_ipv6")
p = built(IP(src=C4, dst=VIP4, frag=1, proto=6) / Raw(b"\0" * 32))
s.dropped(request(p), "bad_fragment")
p = built(IP(src=C4, dst=VIP4, flags="MF", proto=6) / Raw(b"\0" * 8))
s.dropped(request(p), "bad_fragment")
for src in ("127.0.0.1", "224.0.0.5", "255.255.255.255", VIP4, "0.0.0.0"):
    s.dropped(request(built(tcp4("S", src=src))), "bad_source")
for src in ("::1", "ff02::5", VIP6, "::"):
    s.dropped(request(built(udp6(src=src))), "bad_source")
p = built(tcp4("PA", payload=b"12345678"))
p[TCP].chksum = 0x1111
p = built(bytes(p))
s.sent(request(p), frame(ipip(p, B1)), "web", "b1")
s.write()
