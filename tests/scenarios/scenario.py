"""What every gen.py shares: addresses, outer headers built by scapy, and the writing of a scenario's files.

A scenario's expectation is computed here and in gen.py, never taken from Guideway's output.
Run all of them again with: for g in tests/scenarios/*/gen.py; do /usr/bin/python3 "$g"; done
"""
import json
import os
import struct

from scapy.config import conf

conf.verb = 0
from scapy.all import (  # noqa: E402,F401
    ARP, GRE, ICMP, IP, IPOption, TCP, UDP, VXLAN, Dot1AD, Dot1Q, Ether, ICMPv6DestUnreach, ICMPv6EchoReply,
    ICMPv6EchoRequest, ICMPv6ND_NS, ICMPv6PacketTooBig, IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop, PadN, Raw, fragment, fragment6,
)
from scapy.contrib.geneve import GENEVE  # noqa: E402

ROUTER = "02:00:00:00:00:01"   # the clients' router: source of requests, next hop of everything sent
PORT = "02:00:00:00:00:11"     # the balancer's data port
MAC1, MAC2 = "02:00:00:00:00:21", "02:00:00:00:00:22"
LB4, LB6 = "10.0.2.11", "fd00:2::11"
B1, B2, B3 = "10.0.2.21", "10.0.2.22", "10.0.2.23"
B1_6, B2_6 = "fd00:2::21", "fd00:2::22"
VIP4, VIP6 = "203.0.113.10", "2001:db8:f::10"
C4, C6 = "198.51.100.7", "2001:db8:1::7"


def request(l3, tags=()):
    """A frame from the router to the balancer."""
    return Ether(bytes(_ether(PORT, ROUTER, tags, 0x86dd if isinstance(l3, IPv6) else 0x0800)) + bytes(l3))


def _ether(dst, src, tags, ethertype):
    mac = lambda m: bytes.fromhex(m.replace(":", ""))
    out = mac(dst) + mac(src)
    for tpid, tci in tags:
        out += struct.pack("!HH", tpid, tci)
    return out + struct.pack("!H", ethertype)


def frame(l3, dst=ROUTER, src=PORT, tags=()):
    """A frame as the balancer sends it."""
    return Ether(_ether(dst, src, tags, 0x86dd if bytes(l3)[0] >> 4 == 6 else 0x0800) + bytes(l3))


def _outer(inner, backend, protocol, payload):
    """Outer IP header: DSCP and ECN of the inner one, DF, identification 0, TTL 64."""
    first = bytes(inner)
    tos = first[1] if first[0] >> 4 == 4 else (struct.unpack("!H", first[:2])[0] >> 4) & 0xff
    if ":" in backend:
        return IPv6(src=LB6, dst=backend, tc=tos, fl=0, hlim=64, nh=protocol) / Raw(payload)
    return IP(src=LB4, dst=backend, tos=tos, flags="DF", id=0, ttl=64, proto=protocol) / Raw(payload)


def _inner_number(inner):
    return 4 if bytes(inner)[0] >> 4 == 4 else 41


def ipip(inner, backend):
    return _outer(inner, backend, _inner_number(inner), bytes(inner))


def gre(inner, backend):
    ethertype = 0x0800 if _inner_number(inner) == 4 else 0x86dd
    return _outer(inner, backend, 47, struct.pack("!HH", 0, ethertype) + bytes(inner))


def gue(inner, backend, port=6080):
    payload = struct.pack("!BBH", 0, _inner_number(inner), 0) + bytes(inner)
    return _outer(inner, backend, 17, _udp(port, payload))


def vxlan(inner, backend, mac, port=4789, vni=100):
    ethertype = 0x0800 if _inner_number(inner) == 4 else 0x86dd
    payload = bytes(VXLAN(flags=8, vni=vni)) + _ether(mac, PORT, (), ethertype) + bytes(inner)
    return _outer(inner, backend, 17, _udp(port, payload))


def geneve(inner, backend, mac, port=6081, vni=100):
    ethertype = 0x0800 if _inner_number(inner) == 4 else 0x86dd
    payload = bytes(GENEVE(proto=0x6558, vni=vni)) + _ether(mac, PORT, (), ethertype) + bytes(inner)
    return _outer(inner, backend, 17, _udp(port, payload))


def _udp(port, payload):
    """Source port and checksum are the implementation's to choose; the runner masks them."""
    return struct.pack("!HHHH", 0, port, 8 + len(payload), 0) + payload


def quote4(l3, total=576):
    """What an ICMP error may quote so that it stays within `total` bytes (RFC 1812 section 4.3.2.3)."""
    return bytes(l3)[:total - 28]


def quote6(l3, total=1280):
    return bytes(l3)[:total - 48]


def too_big4(l3, mtu):
    return IP(src=l3.dst, dst=l3.src, ttl=64, id=0, flags=0) / ICMP(type=3, code=4, nexthopmtu=mtu) / Raw(quote4(l3))


def too_big6(l3, mtu):
    return IPv6(src=l3.dst, dst=l3.src, hlim=64) / ICMPv6PacketTooBig(mtu=mtu) / Raw(quote6(l3))


def tcp4(flags="S", sport=40000, dport=80, payload=b"", **ip):
    ip.setdefault("src", C4), ip.setdefault("dst", VIP4), ip.setdefault("flags", "DF")
    return IP(ttl=63, id=0x1234, **ip) / TCP(sport=sport, dport=dport, flags=flags, seq=1000, ack=0) / Raw(payload)


def tcp6(flags="S", sport=40000, dport=80, payload=b"", **ip):
    ip.setdefault("src", C6), ip.setdefault("dst", VIP6)
    return IPv6(hlim=63, **ip) / TCP(sport=sport, dport=dport, flags=flags, seq=1000, ack=0) / Raw(payload)


def udp4(sport=5000, dport=53, payload=b"query", **ip):
    ip.setdefault("src", C4), ip.setdefault("dst", VIP4), ip.setdefault("flags", "DF")
    return IP(ttl=63, id=0x1234, **ip) / UDP(sport=sport, dport=dport) / Raw(payload)


def udp6(sport=5000, dport=53, payload=b"query", **ip):
    ip.setdefault("src", C6), ip.setdefault("dst", VIP6)
    return IPv6(hlim=63, **ip) / UDP(sport=sport, dport=dport) / Raw(payload)


def built(l3):
    """With every length and checksum filled in, so that later copies are of the same bytes."""
    return (IPv6 if bytes(l3)[0] >> 4 == 6 else IP)(bytes(l3))


class Scenario:
    """Collects frames with what must become of each, and writes in.pcap, expect.pcap, punt.pcap and expect.json."""

    def __init__(self, file):
        self.folder = os.path.dirname(os.path.abspath(file))
        self.time_us = 1_700_000_000_000_000
        self.input, self.output, self.punts, self.frames = [], [], [], []
        self.originated, self.held_out = 0, {}
        self.dropped_count = {}

    def wait(self, ms):
        self.time_us += ms * 1000
        return self

    def _take(self, packet, wire_length, **expected):
        data = bytes(packet)
        self.input.append((self.time_us, data, wire_length or len(data)))
        self.time_us += 100
        self.frames.append({"index": len(self.frames), **expected})

    def sent(self, packet, out, service, backend):
        """`packet` reaches `backend` as the frame `out`."""
        self._take(packet, None, verdict="sent", service=service, backend=backend, reason=None)
        self.output.append(bytes(out))

    def sent_in_pieces(self, packet, pieces, service, backend):
        """`packet` reaches `backend` cut into the frames `pieces`; all but the first are frames of our own."""
        self.sent(packet, pieces[0], service, backend)
        self.output.extend(bytes(o) for o in pieces[1:])
        self.originated += len(pieces) - 1

    def punted(self, packet):
        self._take(packet, None, verdict="punted", service=None, backend=None, reason=None)
        self.punts.append(bytes(packet))

    def dropped(self, packet, reason, out=(), wire_length=None, **more):
        """`packet` is dropped for `reason`; frames of our own in `out` are sent in its place."""
        self._take(packet, wire_length, verdict="dropped", reason=reason, **more)
        self.dropped_count[reason] = self.dropped_count.get(reason, 0) + 1
        self.output.extend(bytes(o) for o in out)
        self.originated += len(out)

    def write(self, args=(), masks=(), compare_output=True, groups=(), pcapng=False):
        """`masks` name what the implementation may choose; `groups` list frames that must share a backend."""
        self._pcap("in.pcap", self.input, pcapng)
        if compare_output:
            self._pcap("expect.pcap", [(0, f, len(f)) for f in self.output])
        self._pcap("punt.pcap", [(0, f, len(f)) for f in self.punts])
        expect = {
            "args": list(args), "masks": list(masks), "groups": [list(g) for g in groups],
            "rx": len(self.input), "tx": len(self.output), "originated": self.originated,
            "punted": len(self.punts), "relayed": 0, "held": 0, "dropped": self.dropped_count, "frames": self.frames,
        }
        with open(os.path.join(self.folder, "expect.json"), "w") as f:
            head = {k: v for k, v in expect.items() if k != "frames"}
            lines = ",\n".join("    " + json.dumps(x) for x in self.frames)
            f.write(json.dumps(head, indent=2)[:-2] + ',\n  "frames": [\n' + lines + "\n  ]\n}\n")

    def _pcap(self, name, frames, pcapng=False):
        with open(os.path.join(self.folder, name), "wb") as f:
            if pcapng:
                f.write(struct.pack("<IIIHHqI", 0x0A0D0D0A, 28, 0x1A2B3C4D, 1, 0, -1, 28))
                f.write(struct.pack("<IIHHII", 1, 20, 1, 0, 65535, 20))
            else:
                f.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1))
            for time_us, data, wire_length in frames:
                if pcapng:
                    pad = -len(data) % 4
                    total = 32 + len(data) + pad
                    f.write(struct.pack("<IIIIIII", 6, total, 0, time_us >> 32, time_us & 0xffffffff, len(data),
                                        wire_length))
                    f.write(data + b"\0" * pad + struct.pack("<I", total))
                else:
                    f.write(struct.pack("<IIII", time_us // 1000000, time_us % 1000000, len(data), wire_length))
                    f.write(data)
