// Passes that wait for each other in their own code (shaders/README.md, "Relays"): the next one starts beside this one, has
// what it needs of constants on its way, and then waits until all workgroups of this one have counted themselves in a cell.
//
// A shader of a variant with `relays: true` has RELAY_PUSH at the end of its push constants, marks with RELAYED the buffers
// that another pass of the chain writes or reads, and calls RELAY_WAIT() before it touches one and RELAY_DONE() after it did:
// all invocations of a workgroup do, once each. What RELAYED says is seen between passes then, as after a barrier: stores
// happen before the release of the first invocation, through the barrier of the workgroup, and that before the acquire
// of the one that waits (Vulkan's memory model).
#if RELAY
#extension GL_KHR_memory_scope_semantics : require
#pragma use_vulkan_memory_model
#define RELAYED devicecoherent
#define RELAY_PUSH uint relay_from, relay_count, relay_to, relay_clear;
#define RELAY_WAIT() relay_wait(relay_from, relay_count, relay_clear)
#define RELAY_DONE() relay_done(relay_to)

layout(binding = 32) buffer RelayCells { uint relay_cells[]; };
// To look at a cell again and again.
layout(binding = 32) volatile devicecoherent readonly buffer RelaySeen { uint relay_seen[]; };
const uint NO_CELL = 0xffffffff;

void relay_meet() {
    controlBarrier(gl_ScopeWorkgroup, gl_ScopeWorkgroup, gl_StorageSemanticsBuffer | gl_StorageSemanticsShared,
                   gl_SemanticsAcquireRelease);
}

void relay_wait(uint from, uint count, uint clear) {
    if (gl_LocalInvocationIndex == 0) {
        if (from != NO_CELL) {
            uint seen = 0;
            while (seen < count) {
                seen = relay_seen[from];
            }
            // Never: without a use of what was seen, an optimiser leaves the loop out (SPIRV-Tools does).
            if (seen == NO_CELL) {
                relay_cells[from] = 0;
            }
        }
        if (clear != NO_CELL && gl_WorkGroupID == uvec3(0)) {
            atomicStore(relay_cells[clear], 0u, gl_ScopeDevice, gl_StorageSemanticsBuffer, gl_SemanticsRelaxed);
        }
    }
    relay_meet();
}

void relay_done(uint to) {
    relay_meet();
    if (gl_LocalInvocationIndex == 0 && to != NO_CELL) {
        atomicAdd(relay_cells[to], 1u, gl_ScopeDevice, gl_StorageSemanticsBuffer, gl_SemanticsRelease);
    }
}
#else
#define RELAYED
#define RELAY_PUSH
#define RELAY_WAIT()
#define RELAY_DONE()
#endif
