"""A service's own mtu lowers the limit: 1400 leaves 1380 for ipip."""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from scenario import *  # noqa: E402,F403

s = Scenario(__file__)
fits, over = (built(tcp4("PA", payload=b"m" * (n - 40))) for n in (1380, 1381))
s.sent(request(fits), frame(ipip(fits, B1)), "web", "b1")
s.dropped(request(over), "too_big", [frame(built(too_big4(over, 1380)))])
s.write(masks=["ipv4_id", "ipv4_dont_fragment", "originated_tos", "quote_length"])
