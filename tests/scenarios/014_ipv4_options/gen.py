"""IPv4 options are skipped to find the ports and travel inside untouched."""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from scenario import *  # noqa: E402,F403

s = Scenario(__file__)
for options in (b"\x01\x01\x01\x00", b"\x94\x04\x00\x00", b"\x07\x27\x04" + b"\x00" * 37):
    p = built(tcp4("PA", payload=b"data", options=[IPOption(o) for o in [options]]))
    s.sent(request(p), frame(ipip(p, B1)), "web", "b1")
s.write()
