// y[i] = sum of x over i, i + p, i + 2 p, .. in units of sixteen bytes. Four loads are in flight in every invocation.
#version 460

layout(constant_id = 0) const uint WIDTH = 256;
layout(local_size_x_id = 0) in;

layout(binding = BIND_X) readonly buffer In0 { vec4 x[]; };
layout(binding = BIND_Y) writeonly buffer Out { float y[]; };
layout(push_constant) uniform Push { uint n, p; };

void main() {
    uint i = gl_WorkGroupID.x * WIDTH + gl_LocalInvocationID.x;
    if (i >= p) return;
    uint end = n / 4;
    vec4 a = vec4(0), b = vec4(0), c = vec4(0), d = vec4(0);
    uint at = i;
    for (; at + 3 * p < end; at += 4 * p) {
        a += x[at];
        b += x[at + p];
        c += x[at + 2 * p];
        d += x[at + 3 * p];
    }
    for (; at < end; at += p) a += x[at];
    vec4 sum = (a + b) + (c + d);
    y[i] = (sum.x + sum.y) + (sum.z + sum.w);
}
