// y[i, j] = x[i, j] + bias[j], VEC elements an invocation.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "include/storage.glsl"

layout(constant_id = 0) const uint WIDTH = 64;
layout(local_size_x_id = 0) in;

#if VEC == 4
#define ELEMENT A4
#define BIAS vec4
#else
#define ELEMENT A
#define BIAS float
#endif
layout(binding = BIND_X) readonly buffer In0 { ELEMENT x[]; };
layout(binding = BIND_BIAS) readonly buffer In1 { BIAS bias[]; };
layout(binding = BIND_Y) writeonly buffer Out { ELEMENT y[]; };
layout(push_constant) uniform Push { uint m, n; };

void main() {
    uint i = workgroup_number() * WIDTH + gl_LocalInvocationID.x;
    uint row_elements = n / VEC;
    if (i < m * row_elements) {
        y[i] = ELEMENT(BIAS(x[i]) + bias[i % row_elements]);
    }
}
