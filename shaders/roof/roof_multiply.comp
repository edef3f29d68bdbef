// Chains of v = v u + x: eight vectors of four, so that the latency of one hides behind the others. Every chain
// starts elsewhere, or a compiler would see that they are one. With HALF the arithmetic is f16, unlike in every other
// kernel.
#version 460
#if A_F16
#extension GL_EXT_shader_16bit_storage : require
#endif
#if HALF
#extension GL_EXT_shader_explicit_arithmetic_types_float16 : require
#define E float16_t
#define V f16vec4
#else
#define E float
#define V vec4
#endif

layout(constant_id = 0) const uint WIDTH = 256;
layout(local_size_x_id = 0) in;

layout(binding = BIND_X) readonly buffer In0 { A x[]; };
layout(binding = BIND_U) readonly buffer In1 { A u[]; };
layout(binding = BIND_Y) writeonly buffer Out { float y[]; };
layout(push_constant) uniform Push { uint n, rounds; };

void main() {
    uint i = gl_WorkGroupID.x * WIDTH + gl_LocalInvocationID.x;
    if (i >= n) return;
    V add = V(E(x[i]));
    V times = V(E(u[i]));
    V start = V(1, 2, 3, 4);
    V v0 = add * start, v1 = add * (start + V(4)), v2 = add * (start + V(8)), v3 = add * (start + V(12));
    V v4 = add * (start + V(16)), v5 = add * (start + V(20)), v6 = add * (start + V(24)), v7 = add * (start + V(28));
    for (uint round = 0; round < rounds; round++) {
        v0 = v0 * times + add;
        v1 = v1 * times + add;
        v2 = v2 * times + add;
        v3 = v3 * times + add;
        v4 = v4 * times + add;
        v5 = v5 * times + add;
        v6 = v6 * times + add;
        v7 = v7 * times + add;
    }
    vec4 sum = vec4(v0) + vec4(v1) + vec4(v2) + vec4(v3) + vec4(v4) + vec4(v5) + vec4(v6) + vec4(v7);
    y[i] = (sum.x + sum.y) + (sum.z + sum.w);
}
