// y[i, j] = activation(x[i, 2j]) * x[i, 2j + 1]: gate and value stand side by side.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "include/storage.glsl"
#include "include/math.glsl"

layout(constant_id = 0) const uint WIDTH = 64;
layout(local_size_x_id = 0) in;

layout(binding = BIND_X) readonly buffer In { A x[]; };
layout(binding = BIND_Y) writeonly buffer Out { A y[]; };
layout(push_constant) uniform Push { uint count; };

void main() {
    uint i = workgroup_number() * WIDTH + gl_LocalInvocationID.x;
    if (i < count) {
        float gate = float(x[2 * i]);
#if KIND == KIND_GELU
        gate = gelu(gate);
#elif KIND == KIND_GELU_TANH
        gate = gelu_tanh(gate);
#else
        gate = silu(gate);
#endif
        y[i] = A(gate * float(x[2 * i + 1]));
    }
}
