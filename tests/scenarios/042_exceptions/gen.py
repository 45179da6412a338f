"""state = "exceptions": flows that are never tracked keep their backend, and ICMP errors follow them."""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from scenario import *  # noqa: E402,F403

s = Scenario(__file__)
groups = [[] for _ in range(60)]


def take(group, packet, service):
    groups[group].append(len(s.frames))
    s.sent(request(built(packet)), b"", service, None)
    del s.frames[-1]["backend"]


for flags in ("S", "S", "A", "PA", "FA", "A", "S", "R"):
    for flow in range(40):
        # Every fourth flow began before the balancer did.
        if flow % 4 == 0 and "S" in flags:
            continue
        take(flow, tcp4(flags, src="198.51.100.%d" % (flow + 1), sport=30000 + flow), "web")
    # Longer than any idle time of a TCP flow.
    s.wait(2_000_000)
for flow in range(40):
    client = "198.51.100.%d" % (flow + 1)
    quoted = IP(src=VIP4, dst=client, ttl=60, id=7, flags="DF") / TCP(sport=80, dport=30000 + flow, flags="A")
    error = IP(src="192.0.2.1", dst=VIP4, ttl=60) / ICMP(type=3, code=4, nexthopmtu=1400) / Raw(bytes(built(quoted)))
    take(flow, error, "web")
for _ in range(3):
    for flow in range(40, 60):
        take(flow, udp4(sport=5000 + flow, src="198.51.100.%d" % (flow + 1)), "dns")
    s.wait(200)
s.write(args=["--workers", "2"], compare_output=False, groups=groups)
