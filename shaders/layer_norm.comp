// LayerNorm (Ba et al. 2016), one row a workgroup. Mean first, then the variance around it: two passes lose no
// digits to cancellation.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "include/storage.glsl"

layout(constant_id = 0) const uint WIDTH = 64;
layout(local_size_x_id = 0) in;
#include "include/reduce.glsl"

layout(binding = BIND_X) readonly buffer In0 { A x[]; };
layout(binding = BIND_WEIGHT) readonly buffer In1 { float weight[]; };
#if HAS_BIAS
layout(binding = BIND_BIAS) readonly buffer In2 { float bias[]; };
#endif
layout(binding = BIND_Y) writeonly buffer Out { A y[]; };
layout(push_constant) uniform Push { uint m, n; float eps; };

void main() {
    uint row = workgroup_number();
    if (row >= m) {
        return;
    }
    uint base = row * n;
    float total = 0.0;
    for (uint j = gl_LocalInvocationID.x; j < n; j += WIDTH) {
        total += float(x[base + j]);
    }
    float mean = workgroup_sum(total) / float(n);
    float squares = 0.0;
    for (uint j = gl_LocalInvocationID.x; j < n; j += WIDTH) {
        float d = float(x[base + j]) - mean;
        squares += d * d;
    }
    float scale = inversesqrt(workgroup_sum(squares) / float(n) + eps);
    for (uint j = gl_LocalInvocationID.x; j < n; j += WIDTH) {
        float value = (float(x[base + j]) - mean) * scale * weight[j];
#if HAS_BIAS
        value += bias[j];
#endif
        y[base + j] = A(value);
    }
}
