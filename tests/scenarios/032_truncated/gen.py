"""A frame captured shorter than it was on the wire is dropped by name, even if its headers are whole."""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from scenario import *  # noqa: E402,F403

s = Scenario(__file__)
p = built(tcp4("PA", payload=b"t" * 500))
whole = bytes(request(p))
s.dropped(whole[:100], "truncated", wire_length=len(whole))
s.dropped(whole[:10], "truncated", wire_length=len(whole))
s.dropped(whole, "truncated", wire_length=len(whole) + 4)
s.sent(whole, frame(ipip(p, B1)), "web", "b1")
s.write()
