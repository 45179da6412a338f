// SPDX-License-Identifier: Apache-2.0
// Takes the outer headers off what the balancer sends to a backend, because the kernels the lab runs on have no ipip,
// gre, sit, gue or geneve devices. Modes: ipip (RFC 2003, RFC 4213, RFC 2473), gre (RFC 2784, no optional fields), gue
// (variant 0) and geneve (RFC 8926, no options, an Ethernet frame inside), over IPv4 and IPv6, with up to two VLAN tags
// in front (they are removed). Everything else is passed on untouched. The program is strict: an outer header that a
// real router or tunnel end would refuse is dropped and counted as bad, so that a wrong length or checksum shows up as a
// failed test. Whom a frame inside is for, the kernel sees.
#include <linux/bpf.h>
#include <linux/types.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

enum count { IPIP, GRE, GUE, GENEVE, PASSED, BAD, COUNTS };

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, COUNTS);
	__type(key, __u32);
	__type(value, __u64);
} decap_counts SEC(".maps");

struct mac_header {
	__u8 addresses[12];
	__be16 type;
} __attribute__((packed));

struct vlan_tag {
	__be16 control;
	__be16 type;
} __attribute__((packed));

struct ipv4 {
	__u8 version_ihl, tos;
	__be16 length, id, fragment;
	__u8 ttl, protocol;
	__be16 check;
	__be32 source, destination;
} __attribute__((packed));

struct ipv6 {
	__be32 first;
	__be16 payload;
	__u8 next, hops;
	__u8 source[16], destination[16];
} __attribute__((packed));

struct geneve {
	__u8 version_options, flags;
	__be16 type;
	__be32 vni; // and a reserved byte behind it
} __attribute__((packed));

#define TYPE_IPV4 bpf_htons(0x0800)
#define TYPE_IPV6 bpf_htons(0x86dd)
#define TYPE_FRAME bpf_htons(0x6558)
#define GUE_PORT bpf_htons(6080)
#define GENEVE_PORT bpf_htons(6081)
#define GENEVE_VNI bpf_htonl(100 << 8)
#define UDP_LENGTH 8

static __always_inline int finish(enum count index, int action)
{
	__u32 key = index;
	__u64 *value = bpf_map_lookup_elem(&decap_counts, &key);
	if (value)
		__sync_fetch_and_add(value, 1);
	return action;
}

SEC("xdp")
int decap(struct xdp_md *ctx)
{
	void *end = (void *)(long)ctx->data_end;
	void *start = (void *)(long)ctx->data;
	struct mac_header *mac = start;
	if ((void *)(mac + 1) > end)
		return finish(PASSED, XDP_PASS);
	__u32 at = sizeof(*mac);
	__be16 type = mac->type;
#pragma unroll
	for (int i = 0; i < 2; i++) {
		if (type != bpf_htons(0x8100) && type != bpf_htons(0x88a8))
			break;
		struct vlan_tag *tag = start + at;
		if ((void *)(tag + 1) > end)
			return finish(PASSED, XDP_PASS);
		type = tag->type;
		at += sizeof(*tag);
	}

	__u8 protocol;
	__u32 left; // bytes that the outer header promises behind itself
	if (type == TYPE_IPV4) {
		struct ipv4 *outer = start + at;
		if ((void *)(outer + 1) > end)
			return finish(PASSED, XDP_PASS);
		protocol = outer->protocol;
		if (outer->version_ihl != 0x45 || (outer->fragment & bpf_htons(0x3fff)))
			return finish(PASSED, XDP_PASS);
		__u32 sum = 0;
		__u16 *words = (void *)outer;
#pragma unroll
		for (int i = 0; i < 10; i++)
			sum += words[i];
		sum = (sum & 0xffff) + (sum >> 16);
		sum = (sum & 0xffff) + (sum >> 16);
		left = bpf_ntohs(outer->length) - sizeof(*outer);
		if (protocol == 4 || protocol == 41 || protocol == 47) {
			if (sum != 0xffff)
				return finish(BAD, XDP_DROP);
		}
		at += sizeof(*outer);
	} else if (type == TYPE_IPV6) {
		struct ipv6 *outer = start + at;
		if ((void *)(outer + 1) > end)
			return finish(PASSED, XDP_PASS);
		protocol = outer->next;
		left = bpf_ntohs(outer->payload);
		at += sizeof(*outer);
	} else {
		return finish(PASSED, XDP_PASS);
	}

	enum count mode;
	__be16 inner;
	if (protocol == 4 || protocol == 41) {
		mode = IPIP;
		inner = protocol == 4 ? TYPE_IPV4 : TYPE_IPV6;
	} else if (protocol == 47) {
		__be16 *gre = start + at;
		if ((void *)(gre + 2) > end || gre[0] != 0)
			return finish(BAD, XDP_DROP);
		mode = GRE;
		inner = gre[1];
		if (inner != TYPE_IPV4 && inner != TYPE_IPV6)
			return finish(BAD, XDP_DROP);
		at += 4;
		left -= 4;
	} else if (protocol == 17) {
		__be16 *udp = start + at;
		if ((void *)(udp + 4) > end || (udp[1] != GUE_PORT && udp[1] != GENEVE_PORT))
			return finish(PASSED, XDP_PASS);
		if (bpf_ntohs(udp[2]) != left)
			return finish(BAD, XDP_DROP);
		at += UDP_LENGTH;
		left -= UDP_LENGTH;
		if (udp[1] == GUE_PORT) {
			__u8 *gue = start + at;
			if ((void *)(gue + 4) > end)
				return finish(BAD, XDP_DROP);
			// Version 0, no control message, no optional fields (a plain tunnel has none).
			if (gue[0] != 0 || gue[2] != 0 || gue[3] != 0 || (gue[1] != 4 && gue[1] != 41))
				return finish(BAD, XDP_DROP);
			mode = GUE;
			inner = gue[1] == 4 ? TYPE_IPV4 : TYPE_IPV6;
			at += 4;
			left -= 4;
		} else {
			struct geneve *geneve = start + at;
			struct mac_header *carried = (void *)(geneve + 1);
			if ((void *)(carried + 1) > end)
				return finish(BAD, XDP_DROP);
			// Version 0 and no options; neither a control packet nor critical options.
			if (geneve->version_options != 0 || geneve->flags != 0 || geneve->type != TYPE_FRAME ||
			    geneve->vni != GENEVE_VNI)
				return finish(BAD, XDP_DROP);
			mode = GENEVE;
			inner = carried->type;
			if (inner != TYPE_IPV4 && inner != TYPE_IPV6)
				return finish(BAD, XDP_DROP);
			at += sizeof(*geneve) + sizeof(*carried);
			left -= sizeof(*geneve) + sizeof(*carried);
		}
	} else {
		return finish(PASSED, XDP_PASS);
	}

	// The inner datagram must fill the outer one exactly.
	if (inner == TYPE_IPV4) {
		struct ipv4 *ip = start + at;
		if ((void *)(ip + 1) > end || ip->version_ihl >> 4 != 4 || bpf_ntohs(ip->length) != left)
			return finish(BAD, XDP_DROP);
	} else {
		struct ipv6 *ip = start + at;
		if ((void *)(ip + 1) > end || (bpf_ntohl(ip->first) >> 28) != 6 ||
		    bpf_ntohs(ip->payload) + sizeof(*ip) != left)
			return finish(BAD, XDP_DROP);
	}

	struct mac_header kept;
	__builtin_memcpy(&kept, mac, sizeof(kept));
	kept.type = inner;
	if (bpf_xdp_adjust_head(ctx, (int)(at - sizeof(kept))))
		return finish(BAD, XDP_DROP);
	end = (void *)(long)ctx->data_end;
	mac = (void *)(long)ctx->data;
	if ((void *)(mac + 1) > end)
		return finish(BAD, XDP_DROP);
	// A frame inside begins with an Ethernet header of its own.
	if (mode != GENEVE)
		__builtin_memcpy(mac, &kept, sizeof(kept));
	return finish(mode, XDP_PASS);
}

char program_license[] SEC("license") = "Apache-2.0";
