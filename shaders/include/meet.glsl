// Those who divide k among themselves (SHARES) read each other's sums in shared memory: they wait for each other. One
// alone waits for its subgroup.
void meet() {
#if SHARES > 1
    barrier();
#else
    subgroupMemoryBarrierShared();
    subgroupBarrier();
#endif
}
