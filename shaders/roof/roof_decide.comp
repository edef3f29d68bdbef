// y = x, and there is something to do.
#version 460

layout(constant_id = 0) const uint WIDTH = 32;
layout(local_size_x_id = 0) in;

layout(binding = BIND_X) readonly buffer In0 { float x[]; };
layout(binding = BIND_Y) writeonly buffer Out { float y[]; };
layout(binding = BIND_BUSY) writeonly buffer State { uint busy[]; };
layout(push_constant) uniform Push { uint n; };

void main() {
    uint i = gl_WorkGroupID.x * WIDTH + gl_LocalInvocationID.x;
    if (i < n) y[i] = x[i];
    if (i == 0) busy[0] = 1;
}
