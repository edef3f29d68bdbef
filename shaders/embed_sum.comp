// y = LayerNorm(scale (word[id] + position[p] + kind[0])), one row a workgroup; position, kind and the norm are optional.
// An id past the table reads its last row: the host has refused such ids before, this only keeps reads in bounds.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "include/storage.glsl"

layout(constant_id = 0) const uint WIDTH = 64;
layout(local_size_x_id = 0) in;
const uint ITEMS = (D + LOCAL_X - 1) / LOCAL_X;
#include "include/reduce.glsl"

// A table of rows of d weights, in any format: `NAME(rows, row, j)` is an element.
#if W_INT8 || W_INT4
#include "include/block_formats.glsl"
#endif
#if W_INT8
#define TABLE(NAME, BINDING)                                                                        \
    layout(binding = BINDING) readonly buffer NAME##Words { uint NAME##_words[]; };                 \
    layout(binding = BINDING) readonly buffer NAME##Scales { float16_t NAME##_scales[]; };          \
    float NAME(uint rows, uint row, uint j) {                                                       \
        uint at = tiled_element(row, j, rows, d, 16);                                               \
        return float(NAME##_scales[int8_group(rows * d, at, W_GROUP)]) * int8_values(NAME##_words[at / 4])[at % 4]; \
    }
#elif W_INT4
#define TABLE(NAME, BINDING)                                                                        \
    layout(binding = BINDING) readonly buffer NAME##Words { uint NAME##_words[]; };                 \
    layout(binding = BINDING) readonly buffer NAME##Scales { f16vec2 NAME##_scales[]; };            \
    float NAME(uint rows, uint row, uint j) {                                                       \
        uint at = tiled_element(row, j, rows, d, 32);                                               \
        vec2 scale = vec2(NAME##_scales[int4_group(rows * d, at, W_GROUP)]);                                 \
        return scale.x * float(NAME##_words[at / 8] >> 4 * (at % 8) & 15) + scale.y;                \
    }
#else
#define TABLE(NAME, BINDING)                                                                        \
    layout(binding = BINDING) readonly buffer NAME##Rows { W NAME##_rows[]; };                      \
    float NAME(uint rows, uint row, uint j) {                                                       \
        return float(NAME##_rows[row * d + j]);                                                     \
    }
#endif

layout(push_constant) uniform Push { uint m, d, v, p, t, first, vocab; float eps, scale; };
layout(binding = BIND_IDS) readonly buffer In0 { uint ids[]; };
TABLE(word, BIND_WORD)
#if HAS_POSITION
layout(binding = BIND_POSITIONS) readonly buffer In2 { uint positions[]; };
TABLE(position, BIND_POSITION)
#endif
#if HAS_KIND
TABLE(kind, BIND_KIND)
#endif
#if HAS_NORM_WEIGHT
layout(binding = BIND_NORM_WEIGHT) readonly buffer In5 { float norm_weight[]; };
#endif
#if HAS_NORM_BIAS
layout(binding = BIND_NORM_BIAS) readonly buffer In6 { float norm_bias[]; };
#endif
layout(binding = BIND_Y) writeonly buffer Out { S y[]; };

float embedding(uint row, uint j) {
    float value = word(v, min(ids[row], vocab - 1) - first, j);
#if HAS_POSITION
    value += position(p, min(positions[row], p - 1), j);
#endif
#if HAS_KIND
    value += kind(t, 0, j);
#endif
    return scale * value;
}

void main() {
    uint row = workgroup_number();
    if (row >= m) {
        return;
    }
    // A token of another part of the table: its row of y is what `into` was.
    if (min(ids[row], vocab - 1) - first >= v) {
#if !HAS_INTO && OPT_ROWS > 0
        for (uint j = gl_LocalInvocationID.x; j < d; j += WIDTH) {
            y[row * d + j] = S(0.0);
        }
#endif
        return;
    }
    // The row stays in registers between the sums. Past its end the last element is read again: without a branch all of
    // them are on their way at once.
    float items[ITEMS];
    [[unroll]] for (uint i = 0; i < ITEMS; i++) {
        items[i] = embedding(row, min(i * WIDTH + gl_LocalInvocationID.x, d - 1));
    }
#if HAS_NORM_WEIGHT
    float total = 0.0;
    [[unroll]] for (uint i = 0; i < ITEMS; i++) {
        total += i * WIDTH + gl_LocalInvocationID.x < d ? items[i] : 0.0;
    }
    float mean = workgroup_sum(total) / float(d);
    float squares = 0.0;
    [[unroll]] for (uint i = 0; i < ITEMS; i++) {
        float e = i * WIDTH + gl_LocalInvocationID.x < d ? items[i] - mean : 0.0;
        squares += e * e;
    }
    float deviation = inversesqrt(workgroup_sum(squares) / float(d) + eps);
#endif
    [[unroll]] for (uint i = 0; i < ITEMS; i++) {
        uint j = i * WIDTH + gl_LocalInvocationID.x;
        if (j < d) {
            float value = items[i];
#if HAS_NORM_WEIGHT
            value = (value - mean) * deviation * norm_weight[j];
#endif
#if HAS_NORM_BIAS
            value += norm_bias[j];
#endif
            y[row * d + j] = S(value);
        }
    }
}
