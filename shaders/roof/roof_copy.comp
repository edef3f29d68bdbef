// y = x, sixteen bytes an invocation.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "include/storage.glsl"

layout(constant_id = 0) const uint WIDTH = 256;
layout(local_size_x_id = 0) in;

layout(binding = BIND_X) readonly buffer In0 { vec4 x[]; };
layout(binding = BIND_Y) writeonly buffer Out { vec4 y[]; };
layout(push_constant) uniform Push { uint n; };

void main() {
    uint i = workgroup_number() * WIDTH + gl_LocalInvocationID.x;
    if (i < n / 4) y[i] = x[i];
}
