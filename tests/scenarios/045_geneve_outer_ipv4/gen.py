"""Both families reach an IPv4 backend in Geneve; a second service sets its own port and network identifier."""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from scenario import *  # noqa: E402,F403

s = Scenario(__file__)
for p, service in [(built(tcp4("S")), "web4"), (built(tcp4("PA", payload=b"x" * 1001)), "web4"), (built(tcp6("S")), "web6")]:
    s.sent(request(p), frame(geneve(p, B1, MAC1)), service, "b1")
p = built(udp4(payload=b"y" * 7))
s.sent(request(p), frame(geneve(p, B1, MAC1, port=16081, vni=16777215)), "dns4", "d1")
s.write(masks=['udp_source_port', 'udp_checksum'])
