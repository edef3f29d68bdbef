// Rotary positions on the columns of the leading heads; one adjacent pair an invocation.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "include/storage.glsl"
#include "include/math.glsl"

layout(constant_id = 0) const uint WIDTH = 64;
layout(local_size_x_id = 0) in;

layout(binding = BIND_X) readonly buffer In0 { A x[]; };
layout(binding = BIND_POSITIONS) readonly buffer In1 { uint positions[]; };
layout(binding = BIND_Y) writeonly buffer Out { A y[]; };
layout(push_constant) uniform Push { uint m, n; float theta; };

void main() {
    uint i = 2 * (workgroup_number() * WIDTH + gl_LocalInvocationID.x);
    if (i < m * n) {
        uint column = i % n;
        vec2 pair = vec2(x[i], x[i + 1]);
        if (column < OPT_HEADS * OPT_HEAD_DIM) {
            pair = rotate(pair, column % OPT_HEAD_DIM, OPT_HEAD_DIM, float(positions[i / n]), theta);
        }
        y[i] = A(pair.x);
        y[i + 1] = A(pair.y);
    }
}
