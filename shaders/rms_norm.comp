// RMSNorm, one row a workgroup, and the residual stream that follows it in some models.
#version 460
#extension GL_GOOGLE_include_directive : require
#if SUBGROUPS
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_arithmetic : require
#endif
#include "include/storage.glsl"

layout(constant_id = 0) const uint WIDTH = 64;
layout(local_size_x_id = 0) in;
#if SUBGROUPS
shared float subgroup_sums[SUBGROUPS];

float workgroup_sum(float value) {
    float sum = subgroupAdd(value);
    if (gl_SubgroupInvocationID == 0) {
        subgroup_sums[gl_SubgroupID] = sum;
    }
    barrier();
    float total = 0.0;
    for (uint i = 0; i < SUBGROUPS; i++) {
        total += subgroup_sums[i];
    }
    return total;
}
#else
#include "include/reduce.glsl"
#endif

layout(binding = BIND_X) readonly buffer In0 { X x[]; };
layout(binding = BIND_WEIGHT) readonly buffer In1 { float weight[]; };
#if HAS_RESIDUAL
layout(binding = BIND_RESIDUAL) readonly buffer In2 { S residual[]; };
#endif
layout(binding = BIND_Y) writeonly buffer Out { S y[]; };
layout(push_constant) uniform Push { uint m, n; float eps; };

void main() {
    uint row = workgroup_number();
    if (row >= m) {
        return;
    }
    uint base = row * n;
    float squares = 0.0;
    for (uint j = gl_LocalInvocationID.x; j < n; j += WIDTH) {
        float v = float(x[base + j]);
        squares += v * v;
    }
    float scale = inversesqrt(workgroup_sum(squares) / float(n) + eps);
    for (uint j = gl_LocalInvocationID.x; j < n; j += WIDTH) {
        float value = float(x[base + j]) * scale * weight[j];
#if HAS_RESIDUAL
        value += float(residual[base + j]);
#endif
        y[base + j] = S(value);
    }
}
