"""Only the MAC addresses change, in both families; TTL and everything behind Ethernet stay."""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from scenario import *  # noqa: E402,F403

s = Scenario(__file__)
for p, service in [(built(tcp4("S")), "web4"), (built(tcp4("PA", payload=b"x" * 1460)), "web4"), (built(tcp6("S")), "web6")]:
    s.sent(request(p), frame(p, dst=MAC1), service, "b1")
s.write()
