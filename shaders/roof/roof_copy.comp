// y = x, sixteen bytes an invocation.
#version 460

layout(constant_id = 0) const uint WIDTH = 256;
layout(local_size_x_id = 0) in;

layout(binding = BIND_X) readonly buffer In0 { vec4 x[]; };
layout(binding = BIND_Y) writeonly buffer Out { vec4 y[]; };
layout(push_constant) uniform Push { uint n; };

void main() {
    // A long row of workgroups may have been folded into a grid.
    uint number = gl_WorkGroupID.x + gl_NumWorkGroups.x * gl_WorkGroupID.y;
    uint i = number * WIDTH + gl_LocalInvocationID.x;
    if (i < n / 4) y[i] = x[i];
}
