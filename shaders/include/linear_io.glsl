// What every variant of `linear` shares: bindings, push constants, the operands as vectors, and the epilogue.
//
//     y = LayerNorm(activation(RoPE(RMSNorm(x) w^T + bias)) + residual)
//
// RMSNorm (Zhang and Sennrich 2019) is folded into the product: `load_x` multiplies by the gain, and since the factor
// of a row, 1 / rms, is the same for all of its elements, each workgroup sums the squares of its rows on the way and
// multiplies the finished sums by `rms_scale`.
#include "math.glsl"
#include "relay.glsl"

#define GATED (ACT == ACT_SWIGLU || ACT == ACT_GEGLU || ACT == ACT_GEGLU_TANH)
#if GATED
#define GATES 2
#else
#define GATES 1
#endif
#define W_BLOCKS (W_INT8 || W_INT4)
// What comes of four neighbouring columns: four, or two where each takes a pair.
#if GATED
#define OUTS 2
#define OUT vec2
#define OUT_F16 f16vec2
#else
#define OUTS 4
#define OUT vec4
#define OUT_F16 f16vec4
#endif
#if S_F16
#define OUT_S OUT_F16
#else
#define OUT_S OUT
#endif

// VEC is what x and w are read by: 8 elements, 4, or single ones. W_BY_16_BYTES is for w alone.
#ifdef W_BY_16_BYTES
// Elements of w in 16 bytes.
#if W_INT4
#define PER 32
#elif W_INT8
#define PER 16
#elif W_F16
#define PER 8
#else
#define PER 4
#endif
#endif
#if VEC == 8
#define X_VECTOR uvec4
#define W_VECTOR uvec4
#elif VEC == 4
#if X_F16
#define X_VECTOR f16vec4
#else
#define X_VECTOR vec4
#endif
#if W_F16
#define W_VECTOR f16vec4
#else
#define W_VECTOR vec4
#endif
#else
#define X_VECTOR X
#define W_VECTOR W
#endif
layout(binding = BIND_X) RELAYED readonly buffer In0 { X_VECTOR x[]; };
#if W_BLOCKS
#include "block_formats.glsl"
#if defined(W_BY_16_BYTES)
layout(binding = BIND_W) readonly buffer In1 { uvec4 w[]; };
#elif VEC == 8 && W_INT8
layout(binding = BIND_W) readonly buffer In1 { uvec2 w[]; };
#else
layout(binding = BIND_W) readonly buffer In1 { uint w[]; };
#endif
#if W_INT8
layout(binding = BIND_W) readonly buffer In1Shared { float16_t w_scale[]; };
#else
layout(binding = BIND_W) readonly buffer In1Shared { f16vec2 w_scale[]; };
#endif
#elif defined(W_BY_16_BYTES)
layout(binding = BIND_W) readonly buffer In1 { uvec4 w[]; };
#else
layout(binding = BIND_W) readonly buffer In1 { W_VECTOR w[]; };
#endif
#if HAS_GAIN
#if VEC == 1
layout(binding = BIND_GAIN) readonly buffer In2 { float gain[]; };
#else
layout(binding = BIND_GAIN) readonly buffer In2 { vec4 gain[]; };
#endif
#endif
#if HAS_BIAS
layout(binding = BIND_BIAS) RELAY_EARLY readonly buffer In3 { float bias[]; };
#endif
#if HAS_POSITIONS
layout(binding = BIND_POSITIONS) RELAY_EARLY readonly buffer In4 { uint positions[]; };
#endif
#if HAS_RESIDUAL
layout(binding = BIND_RESIDUAL) RELAYED readonly buffer In6 { S residual[]; };
layout(binding = BIND_RESIDUAL) RELAYED readonly buffer In6Vectors { OUT_S residual_vectors[]; };
#endif
#if HAS_K_CACHE
layout(binding = BIND_SLOTS) RELAY_EARLY readonly buffer In7 { uint slots[]; };
layout(binding = BIND_K_CACHE) RELAYED writeonly buffer State0 { C k_cache[]; };
layout(binding = BIND_V_CACHE) RELAYED writeonly buffer State1 { C v_cache[]; };
#endif
#if HAS_NORM_WEIGHT
layout(binding = BIND_NORM_WEIGHT) readonly buffer In8 { float norm_weight[]; };
layout(binding = BIND_NORM_WEIGHT) readonly buffer In8Vectors { OUT norm_weight_vectors[]; };
#if HAS_NORM_BIAS
layout(binding = BIND_NORM_BIAS) readonly buffer In9 { float norm_bias[]; };
layout(binding = BIND_NORM_BIAS) readonly buffer In9Vectors { OUT norm_bias_vectors[]; };
#endif
// Rows are finished by another workgroup than the ones that wrote them: coherent makes those writes meet in memory.
#if HAS_SUM
layout(binding = BIND_SUM) coherent buffer Out0 { S before_norm[]; };
layout(binding = BIND_SUM) coherent buffer Out0Vectors { OUT_S before_norm_vectors[]; };
layout(binding = BIND_Y) writeonly buffer Out1 { S y[]; };
layout(binding = BIND_Y) writeonly buffer Out1Vectors { OUT_S y_vectors[]; };
#else
layout(binding = BIND_Y) coherent buffer Out1 { S y[]; };
layout(binding = BIND_Y) coherent buffer Out1Vectors { OUT_S y_vectors[]; };
#define before_norm y
#define before_norm_vectors y_vectors
#endif
layout(binding = BIND_COUNTERS) coherent buffer Scratch { uint counters[]; };
#else
layout(binding = BIND_Y) RELAYED writeonly buffer Out1 { S y[]; };
layout(binding = BIND_Y) RELAYED writeonly buffer Out1Vectors { OUT_S y_vectors[]; };
#define before_norm y
#define before_norm_vectors y_vectors
#endif
// `first` is the column of y that the first column of this pass goes to.
layout(push_constant) uniform Push {
    uint m, n, k, width, first, rows_per_sequence, slots_n, kv_heads, ctx, head_dim;
    float eps, rope_theta, rope_scale;
    RELAY_PUSH
};

#ifdef W_BY_16_BYTES
// Vectors of w in a row; where a row begins, and the places of its vectors: of `vector`, or of 4 * tile + part.
#ifdef ROW
#define ROW_VECTORS (ROW / PER)
#else
#define ROW_VECTORS (k / PER)
#endif
#if W_BLOCKS
#define W_ROW TiledRow
W_ROW w_row(uint column) {
    return tiled_row(column, n, ROW_VECTORS);
}
uint w_vector(W_ROW row, uint tile, uint part) {
    return tiled_vector(row, tile, part, ROW_VECTORS);
}
uint w_vector(W_ROW row, uint vector) {
    return w_vector(row, vector / 4, vector % 4);
}
#else
#define W_ROW uint
W_ROW w_row(uint column) {
    return column * ROW_VECTORS;
}
uint w_vector(W_ROW row, uint tile, uint part) {
    return row + part + 4 * tile;
}
uint w_vector(W_ROW row, uint vector) {
    return row + vector;
}
#endif

// Where that stands which the group of a vector of w shares, if groups share anything.
uint w_group(uint vector) {
#if W_INT8
    return int8_group(n * k, 0, W_GROUP) + vector / (W_GROUP / PER);
#elif W_INT4
    return int4_group(n * k, 0, W_GROUP) + vector / (W_GROUP / PER);
#else
    return 0;
#endif
}
#endif

#if VEC != 8
#include "linear_operands.glsl"
#endif
#include "linear_epilogue.glsl"
#if HAS_NORM_WEIGHT
#include "linear_norm.glsl"
#endif
