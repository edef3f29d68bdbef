// RMSNorm, one row a workgroup, and the residual stream that follows it in some models.
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
