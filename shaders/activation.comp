// y = activation(x), VEC elements an invocation.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "include/storage.glsl"
#include "include/math.glsl"

layout(constant_id = 0) const uint WIDTH = 64;
layout(local_size_x_id = 0) in;

#if VEC == 4
#define ELEMENT A4
#else
#define ELEMENT A
#endif
layout(binding = BIND_X) readonly buffer In { ELEMENT x[]; };
layout(binding = BIND_Y) writeonly buffer Out { ELEMENT y[]; };
layout(push_constant) uniform Push { uint n; };

float activate(float v) {
#if KIND == KIND_RELU
    return max(v, 0.0);
#elif KIND == KIND_GELU
    return gelu(v);
#elif KIND == KIND_GELU_TANH
    return gelu_tanh(v);
#elif KIND == KIND_SILU
    return silu(v);
#else
    return v;
#endif
}

void main() {
    uint i = workgroup_number() * WIDTH + gl_LocalInvocationID.x;
    if (i < n / VEC) {
#if VEC == 4
        vec4 v = vec4(x[i]);
        y[i] = A4(vec4(activate(v.x), activate(v.y), activate(v.z), activate(v.w)));
#else
        y[i] = A(activate(float(x[i])));
#endif
    }
}
