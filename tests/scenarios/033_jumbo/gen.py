"""With mtu = 9000 on the port frames up to 9000 - 20 pass in ipip, and 8981 is too big."""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from scenario import *  # noqa: E402,F403

s = Scenario(__file__)
for size in (1500, 4000, 8980):
    p = built(tcp4("PA", payload=bytes(i % 251 for i in range(size - 40))))
    s.sent(request(p), frame(ipip(p, B1)), "web", "b1")
p = built(tcp4("PA", payload=b"m" * (8981 - 40)))
s.dropped(request(p), "too_big", [frame(built(too_big4(p, 8980)))])
s.write(masks=["ipv4_id", "ipv4_dont_fragment", "originated_tos", "quote_length"])
