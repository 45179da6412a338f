"""IPv6 extension headers are walked to the ports; an atomic fragment counts as whole (RFC 6946)."""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from scenario import *  # noqa: E402,F403

s = Scenario(__file__)
ip = lambda: IPv6(src=C6, dst=VIP6, hlim=63)
end = UDP(sport=5000, dport=53) / Raw(b"query")
for p in [
    ip() / IPv6ExtHdrHopByHop(options=[PadN(optdata=b"\0" * 4)]) / end,
    ip() / IPv6ExtHdrDestOpt(options=[PadN(optdata=b"\0" * 12)]) / end,
    ip() / IPv6ExtHdrHopByHop(options=[PadN(optdata=b"\0" * 4)]) / IPv6ExtHdrDestOpt(options=[PadN(optdata=b"\0" * 4)]) / end,
    ip() / IPv6ExtHdrFragment(id=7, offset=0, m=0) / end,
]:
    p = built(p)
    s.sent(request(p), frame(ipip(p, B1_6)), "dns", "b1")
s.write(masks=["flow_label"])
