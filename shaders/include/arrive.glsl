// Work that several workgroups share and one of them ends: each counts itself in, and the last to arrive goes on with
// all that the others wrote. Nobody waits for anybody, so no forward progress between workgroups is assumed. The shader
// declares `coherent buffer { uint counters[]; }`, and what the last one reads is `coherent` too.
shared uint arrived;

// Whether this workgroup is the last of `arrivals` at that counter, which is then zero again. All of a workgroup's
// invocations call it, once.
bool last_to_arrive(uint counter, uint arrivals) {
    memoryBarrierBuffer();
    barrier();
    if (gl_LocalInvocationIndex == 0) {
        arrived = atomicAdd(counters[counter], 1);
    }
    barrier();
    bool last = arrived == arrivals - 1;
    if (last) {
        memoryBarrierBuffer();
        if (gl_LocalInvocationIndex == 0) {
            counters[counter] = 0;
        }
    }
    return last;
}
