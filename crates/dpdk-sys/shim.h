/* DPDK's inline functions and thread-local macros that Rust cannot call. Only functions called once per
 * burst, or rarely, belong here: a call costs about 6 ns (docs/adr/0003). */
#ifndef GUIDEWAY_SHIM_H
#define GUIDEWAY_SHIM_H

#include <stdint.h>

struct rte_mbuf;
struct rte_mempool;
struct rte_ring;

uint16_t shim_eth_rx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count);
uint16_t shim_eth_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count);
int shim_pktmbuf_alloc_bulk(struct rte_mempool *pool, struct rte_mbuf **mbufs, unsigned int count);
void shim_pktmbuf_free(struct rte_mbuf *mbuf);
int shim_errno(void);
unsigned int shim_lcore_id(void);
uint64_t shim_rdtsc(void);
unsigned int shim_ring_enqueue_burst(struct rte_ring *ring, void *const *items, unsigned int count);
unsigned int shim_ring_dequeue_burst(struct rte_ring *ring, void **items, unsigned int count);

#endif
