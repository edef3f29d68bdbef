// RMSNorm, one row a workgroup, four neighbours at a time, and the norm of its sum with the residual stream. All that a
// row needs is asked for before the first sum: where rows are few, waiting for memory is all the time there is. A compiler
// may ask for weights behind it, as NVIDIA's does; between barriers of the device to force it was slower (BENCHMARKS.md).
// In a chain there is time for them before the wait.
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_arithmetic : require
#include "include/storage.glsl"
#include "include/relay.glsl"

layout(local_size_x = LOCAL_X) in;

#if X_F16
#define X4 f16vec4
#else
#define X4 vec4
#endif
#if S_F16
#define S4 f16vec4
#else
#define S4 vec4
#endif
layout(binding = BIND_X) RELAYED readonly buffer In0 { X4 x[]; };
layout(binding = BIND_WEIGHT) RELAY_EARLY readonly buffer In1 { vec4 weight[]; };
#if HAS_RESIDUAL
layout(binding = BIND_RESIDUAL) RELAYED readonly buffer In2 { S4 residual[]; };
#endif
#if HAS_NEXT_WEIGHT
layout(binding = BIND_NEXT_WEIGHT) RELAY_EARLY readonly buffer In3 { vec4 next_weight[]; };
layout(binding = BIND_NEXT) RELAYED writeonly buffer Out1 { A4 next[]; };
#endif
layout(binding = BIND_Y) RELAYED writeonly buffer Out0 { S4 y[]; };
layout(push_constant) uniform Push { uint m, n; float eps; RELAY_PUSH };

const uint VECTORS = N / 4;
const uint ITEMS = (VECTORS + LOCAL_X - 1) / LOCAL_X;
shared float subgroup_sums[SUBGROUPS];

// The sum of squares of the row that lies in `items`, of whom each invocation has some.
float squares(vec4 items[ITEMS]) {
    float mine = 0.0;
    [[unroll]] for (uint i = 0; i < ITEMS; i++) {
        mine += i * LOCAL_X + gl_LocalInvocationID.x < VECTORS ? dot(items[i], items[i]) : 0.0;
    }
    mine = subgroupAdd(mine);
    if (gl_SubgroupInvocationID == 0) {
        subgroup_sums[gl_SubgroupID] = mine;
    }
    barrier();
    float total = 0.0;
    [[unroll]] for (uint i = 0; i < SUBGROUPS; i++) {
        total += subgroup_sums[i];
    }
    return total;
}

void main() {
    uint row = workgroup_number();
    if (row >= m) {
        return;
    }
    uint t = gl_LocalInvocationID.x;
    vec4 items[ITEMS];
    vec4 weights[ITEMS];
    vec4 residuals[ITEMS];
    vec4 next_weights[ITEMS];
    [[unroll]] for (uint i = 0; i < ITEMS; i++) {
        // Past the end the last vector is read again and counts for nothing.
        uint j = min(i * LOCAL_X + t, VECTORS - 1);
        weights[i] = weight[j];
#if HAS_NEXT_WEIGHT
        next_weights[i] = next_weight[j];
#endif
    }
    RELAY_WAIT();
    [[unroll]] for (uint i = 0; i < ITEMS; i++) {
        uint j = min(i * LOCAL_X + t, VECTORS - 1);
        items[i] = vec4(x[row * VECTORS + j]);
#if HAS_RESIDUAL
        residuals[i] = vec4(residual[row * VECTORS + j]);
#endif
    }
    float scale = inversesqrt(squares(items) / float(n) + eps);
    [[unroll]] for (uint i = 0; i < ITEMS; i++) {
        items[i] = items[i] * scale * weights[i];
#if HAS_RESIDUAL
        items[i] += residuals[i];
#endif
        uint j = i * LOCAL_X + t;
        if (j < VECTORS) {
            y[row * VECTORS + j] = S4(items[i]);
        }
    }
#if HAS_NEXT_WEIGHT
    // Until everybody has read the sums of the first norm.
    barrier();
    float next_scale = inversesqrt(squares(items) / float(n) + eps);
    [[unroll]] for (uint i = 0; i < ITEMS; i++) {
        uint j = i * LOCAL_X + t;
        if (j < VECTORS) {
            next[row * VECTORS + j] = A4(items[i] * next_scale * next_weights[i]);
        }
    }
#endif
    RELAY_DONE();
}
