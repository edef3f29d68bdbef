// Passes that wait for each other in their own code (shaders/README.md, "Relays"): the next one starts beside this one, has
// what it needs of constants on its way, and then waits until all workgroups of this one have counted themselves in a cell.
//
// A shader of a variant with `relays` has RELAY_PUSH at the end of its push constants, marks with RELAYED the buffers that
// another pass of the chain writes or reads, and calls RELAY_WAIT() before it touches one and RELAY_DONE() after it did: all
// invocations of a workgroup do, once each. Stores happen before the release of the first invocation, through the barrier
// of the workgroup. The look at the cell is relaxed: that what was released is seen behind it is what a device with the
// feature is known to do (shaders/README.md), and saves a fence between every two passes.
#if RELAY
#extension GL_KHR_memory_scope_semantics : require
#pragma use_vulkan_memory_model
#define RELAYED devicecoherent
// For what is read before the wait, that it is: other loads compilers put where they are used, coherent ones do not pass the
// barrier of the workgroup behind them.
#define RELAY_EARLY devicecoherent
#define RELAY_PUSH uint relay_from, relay_count, relay_to, relay_clear;
#define RELAY_WAIT() relay_wait(relay_from, relay_count, relay_clear)
#define RELAY_DONE() relay_done(relay_to)
// In place of RELAY_WAIT(), where one subgroup, that of invocation RELAY_LOOKER, goes on by itself at first: all of its
// invocations look, and later all of the workgroup meet.
#define RELAY_LOOK() { \
    relay_look(relay_from, relay_count, relay_clear); \
    controlBarrier(gl_ScopeSubgroup, gl_ScopeSubgroup, gl_StorageSemanticsBuffer, gl_SemanticsAcquireRelease); \
}
#define RELAY_MEET() relay_meet()

layout(binding = 32) buffer RelayCells { uint relay_cells[]; };
const uint NO_CELL = 0xffffffff;

void relay_meet() {
    controlBarrier(gl_ScopeWorkgroup, gl_ScopeWorkgroup, gl_StorageSemanticsBuffer | gl_StorageSemanticsShared,
                   gl_SemanticsAcquireRelease);
}

// Which invocation looks at the cell, in shaders where it is not the first one.
#ifndef RELAY_LOOKER
#define RELAY_LOOKER 0
#endif

void relay_look(uint from, uint count, uint clear) {
    if (gl_LocalInvocationIndex == RELAY_LOOKER) {
        if (from != NO_CELL) {
            while (atomicLoad(relay_cells[from], gl_ScopeDevice, gl_StorageSemanticsBuffer, gl_SemanticsRelaxed) < count) {}
        }
        if (clear != NO_CELL && gl_WorkGroupID == uvec3(0)) {
            atomicStore(relay_cells[clear], 0u, gl_ScopeDevice, gl_StorageSemanticsBuffer, gl_SemanticsRelaxed);
        }
    }
}

void relay_wait(uint from, uint count, uint clear) {
    relay_look(from, count, clear);
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
#define RELAY_EARLY
#define RELAY_PUSH
#define RELAY_WAIT()
#define RELAY_DONE()
#define RELAY_LOOK()
#define RELAY_MEET() barrier()
#endif
