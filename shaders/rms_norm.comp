// RMSNorm, one row a workgroup, the residual stream that follows it in some models, and the norm of that sum.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "include/storage.glsl"

layout(constant_id = 0) const uint WIDTH = 64;
layout(local_size_x_id = 0) in;
#include "include/reduce.glsl"

layout(binding = BIND_X) readonly buffer In0 { X x[]; };
layout(binding = BIND_WEIGHT) readonly buffer In1 { float weight[]; };
#if HAS_RESIDUAL
layout(binding = BIND_RESIDUAL) readonly buffer In2 { S residual[]; };
#endif
#if HAS_NEXT_WEIGHT
layout(binding = BIND_NEXT_WEIGHT) readonly buffer In3 { float next_weight[]; };
layout(binding = BIND_NEXT) writeonly buffer Out1 { A next[]; };
#endif
layout(binding = BIND_Y) writeonly buffer Out0 { S y[]; };
layout(push_constant) uniform Push { uint m, n; float eps; };

float sum(uint at, uint column, float scale) {
    float value = float(x[at]) * scale * weight[column];
#if HAS_RESIDUAL
    value += float(residual[at]);
#endif
    return value;
}

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
#if HAS_NEXT_WEIGHT
    // Before y takes the place of the residual.
    float next_squares = 0.0;
    for (uint j = gl_LocalInvocationID.x; j < n; j += WIDTH) {
        float value = sum(base + j, j, scale);
        next_squares += value * value;
    }
    float next_scale = inversesqrt(workgroup_sum(next_squares) / float(n) + eps);
#endif
    for (uint j = gl_LocalInvocationID.x; j < n; j += WIDTH) {
        float value = sum(base + j, j, scale);
        y[base + j] = S(value);
#if HAS_NEXT_WEIGHT
        next[base + j] = A(value * next_scale * next_weight[j]);
#endif
    }
}
