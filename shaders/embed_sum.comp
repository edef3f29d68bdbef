// y = LayerNorm(word[id] + position[p] + kind[0]), one row a workgroup; position, kind and the norm are optional.
// An id past the table reads its last row: the host has refused such ids before, this only keeps reads in bounds.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "include/storage.glsl"

layout(constant_id = 0) const uint WIDTH = 64;
layout(local_size_x_id = 0) in;
const uint ITEMS = (D + LOCAL_X - 1) / LOCAL_X;
#include "include/reduce.glsl"

layout(binding = BIND_IDS) readonly buffer In0 { uint ids[]; };
layout(binding = BIND_WORD) readonly buffer In1 { W word[]; };
#if HAS_POSITION
layout(binding = BIND_POSITIONS) readonly buffer In2 { uint positions[]; };
layout(binding = BIND_POSITION) readonly buffer In3 { W position[]; };
#endif
#if HAS_KIND
layout(binding = BIND_KIND) readonly buffer In4 { W kind[]; };
#endif
#if HAS_NORM_WEIGHT
layout(binding = BIND_NORM_WEIGHT) readonly buffer In5 { float norm_weight[]; };
#endif
#if HAS_NORM_BIAS
layout(binding = BIND_NORM_BIAS) readonly buffer In6 { float norm_bias[]; };
#endif
layout(binding = BIND_Y) writeonly buffer Out { A y[]; };
layout(push_constant) uniform Push { uint m, d, v, p; float eps; };

float embedding(uint row, uint j) {
    float value = float(word[min(ids[row], v - 1) * d + j]);
#if HAS_POSITION
    value += float(position[min(positions[row], p - 1) * d + j]);
#endif
#if HAS_KIND
    value += float(kind[j]);
#endif
    return value;
}

void main() {
    uint row = workgroup_number();
    if (row >= m) {
        return;
    }
    // The row stays in registers between the sums.
    float items[ITEMS];
    [[unroll]] for (uint i = 0; i < ITEMS; i++) {
        uint j = i * WIDTH + gl_LocalInvocationID.x;
        items[i] = j < d ? embedding(row, j) : 0.0;
    }
#if HAS_NORM_WEIGHT
    float total = 0.0;
    [[unroll]] for (uint i = 0; i < ITEMS; i++) {
        total += items[i];
    }
    float mean = workgroup_sum(total) / float(d);
    float squares = 0.0;
    [[unroll]] for (uint i = 0; i < ITEMS; i++) {
        float e = i * WIDTH + gl_LocalInvocationID.x < d ? items[i] - mean : 0.0;
        squares += e * e;
    }
    float scale = inversesqrt(workgroup_sum(squares) / float(d) + eps);
#endif
    [[unroll]] for (uint i = 0; i < ITEMS; i++) {
        uint j = i * WIDTH + gl_LocalInvocationID.x;
        if (j < d) {
            float value = items[i];
#if HAS_NORM_WEIGHT
            value = (value - mean) * scale * norm_weight[j];
#endif
#if HAS_NORM_BIAS
            value += norm_bias[j];
#endif
            y[row * d + j] = A(value);
        }
    }
}
