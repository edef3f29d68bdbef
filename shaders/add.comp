// y = a + b, VEC elements an invocation.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "include/storage.glsl"

layout(constant_id = 0) const uint WIDTH = 64;
layout(local_size_x_id = 0) in;

#if VEC == 4
#define ELEMENT A4
#else
#define ELEMENT A
#endif
layout(binding = BIND_A) readonly buffer In0 { ELEMENT a[]; };
layout(binding = BIND_B) readonly buffer In1 { ELEMENT b[]; };
layout(binding = BIND_Y) writeonly buffer Out { ELEMENT y[]; };
layout(push_constant) uniform Push { uint n; };

void main() {
    uint i = workgroup_number() * WIDTH + gl_LocalInvocationID.x;
    if (i < n / VEC) {
#if VEC == 4
        y[i] = A4(vec4(a[i]) + vec4(b[i]));
#else
        y[i] = A(float(a[i]) + float(b[i]));
#endif
    }
}
