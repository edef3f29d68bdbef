// The same numbers without matrix units, to check the others against.
#version 460
#extension GL_EXT_shader_16bit_storage : require

layout(local_size_x = 64) in;

layout(binding = BIND_X) readonly buffer In0 { float16_t x[]; };
layout(binding = BIND_W) readonly buffer In1 { float16_t w[]; };
layout(binding = BIND_Y) writeonly buffer Out { float y[]; };
layout(push_constant) uniform Push { uint g, rounds; };

void main() {
    uint e = 64 * (gl_WorkGroupID.x % 4) + gl_LocalInvocationID.x;
    float sum = 0;
    for (uint i = 0; i < 4; i++) {
        for (uint j = 0; j < 4; j++) {
            for (uint p = 0; p < 16; p++) {
                sum += float(x[256 * i + 16 * (e / 16) + p]) * float(w[256 * j + 16 * p + e % 16]);
            }
        }
    }
    y[256 * (gl_WorkGroupID.x / 4) + e] = float(rounds) * sum;
}
