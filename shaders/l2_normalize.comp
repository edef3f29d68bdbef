// y = x / max(|x|, eps), one row a workgroup.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "include/storage.glsl"

layout(constant_id = 0) const uint WIDTH = 64;
layout(local_size_x_id = 0) in;
#include "include/reduce.glsl"

layout(binding = BIND_X) readonly buffer In { float x[]; };
layout(binding = BIND_Y) writeonly buffer Out { float y[]; };
layout(push_constant) uniform Push { uint m, n; float eps; };

void main() {
    uint row = workgroup_number();
    if (row >= m) {
        return;
    }
    uint base = row * n;
    float squares = 0.0;
    for (uint j = gl_LocalInvocationID.x; j < n; j += WIDTH) {
        squares += x[base + j] * x[base + j];
    }
    float scale = 1.0 / max(sqrt(workgroup_sum(squares)), eps);
    for (uint j = gl_LocalInvocationID.x; j < n; j += WIDTH) {
        y[base + j] = x[base + j] * scale;
    }
}
