// x w^T on matrix units (KHR cooperative matrix), f16 operands and f32 sums. Block formats and normed rows become f16 on
// their way into the tile. A workgroup of four subgroups makes a
// 128 x 128 tile, a subgroup 64 x 64 of it as 4 x 4 fragments of 16 x 16. One stage of 32 columns of both operands is
// in shared memory while the next one is on its way into registers: a second stage there would halve the number of
// resident workgroups, which costs more than it hides (48 KiB a compute unit is all that Vulkan gives on the device
// this was measured on).
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_KHR_cooperative_matrix : require
#extension GL_KHR_memory_scope_semantics : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_arithmetic : require
#extension GL_EXT_shader_explicit_arithmetic_types_float16 : require
#include "include/storage.glsl"

layout(local_size_x = LOCAL_X) in;
#define ROWS_BY_SUBGROUP
#include "include/linear_io.glsl"

const uint TILE = 128;
const uint STEP = 32;
const uint VECTORS = STEP / 8;
// One padding vector a line, so that fragment loads hit different banks.
const uint LINE = VECTORS + 1;
const uint SHARE = TILE * VECTORS / LOCAL_X;
shared uvec4 tile_x[TILE * LINE];
shared uvec4 tile_w[TILE * LINE];
// Where a subgroup lays 16 rows of its finished sums, 16 columns at a time, for the epilogue: the tile is idle then, and
// memory of its own would keep a second workgroup off the compute unit.
const uint STAGE_LINE = 5;
#define stage tile_x

#if HAS_GAIN
// Sums of squares of x: each element belongs to the invocation that loads that place of every tile.
shared float squares[TILE * VECTORS];

// The factor 1 / rms of a row is known when all of it was read, and before that x times the gain may be more than f16
// holds: it is made smaller by a power of two, which the finished sums are multiplied by.
#if X_F16
const float SHRINK = 1.0 / 16.0;
#else
const float SHRINK = 1.0 / 256.0;
#endif
#endif

// Eight f16.
uvec4 halves(vec4 a, vec4 b) {
    return uvec4(packHalf2x16(a.xy), packHalf2x16(a.zw), packHalf2x16(b.xy), packHalf2x16(b.zw));
}

// x[row, 8 * k8 .. 8 * k8 + 8] with zeros past the edges; `slot` is its place in the tile.
uvec4 x8(uint row, uint k8, uint slot) {
    if (row >= m || 8 * k8 >= k) {
        return uvec4(0);
    }
#if !HAS_GAIN
    return x[row * (k / 8) + k8];
#else
#if X_F16
    uvec4 q = x[row * (k / 8) + k8];
    vec4 a = vec4(unpackHalf2x16(q.x), unpackHalf2x16(q.y));
    vec4 b = vec4(unpackHalf2x16(q.z), unpackHalf2x16(q.w));
#else
    vec4 a = uintBitsToFloat(x[row * (k / 4) + 2 * k8]);
    vec4 b = uintBitsToFloat(x[row * (k / 4) + 2 * k8 + 1]);
#endif
    squares[slot] += dot(a, a) + dot(b, b);
    a = clamp(a * gain[2 * k8] * SHRINK, -65504.0, 65504.0);
    b = clamp(b * gain[2 * k8 + 1] * SHRINK, -65504.0, 65504.0);
    return halves(a, b);
#endif
}

// Eight elements of w as they stand in memory, with what their group shares. They become f16 only on their way into
// shared memory: a conversion right behind the load would wait for it, where the matrix units should be working.
// Integers become f16 by bits: 0x6400 is 1024, whose last bits count ones.
#if W_INT8
#define STORED uvec3
STORED stored_w8(uint column, uint k8) {
    f16vec2 scale = f16vec2(w_scale[int8_group(n * k, column * k + 8 * k8)]);
    return uvec3(w[column * (k / 8) + k8], packFloat2x16(scale));
}
uint int8_pair(uint word, f16vec2 scale) {
    uint pair = word & 0xff | (word & 0xff00) << 8 | 0x64006400;
    return packFloat2x16((unpackFloat2x16(pair) - f16vec2(1152.0)) * scale);
}
uvec4 as_halves(STORED e) {
    f16vec2 scale = unpackFloat2x16(e.z);
    uvec2 q = e.xy ^ 0x80808080;
    return uvec4(int8_pair(q.x, scale), int8_pair(q.x >> 16, scale), int8_pair(q.y, scale),
                 int8_pair(q.y >> 16, scale));
}
#elif W_INT4
#define STORED uvec2
STORED stored_w8(uint column, uint k8) {
    return uvec2(w[column * (k / 8) + k8], packFloat2x16(w_scale[int4_group(n * k, column * k + 8 * k8)]));
}
uint int4_pair(uint word, f16vec2 group) {
    uint pair = word & 15 | (word & 0xf0) << 12 | 0x64006400;
    return packFloat2x16(fma(unpackFloat2x16(pair) - f16vec2(1024.0), group.xx, group.yy));
}
uvec4 as_halves(STORED e) {
    f16vec2 group = unpackFloat2x16(e.y);
    return uvec4(int4_pair(e.x, group), int4_pair(e.x >> 8, group), int4_pair(e.x >> 16, group),
                 int4_pair(e.x >> 24, group));
}
#else
#define STORED uvec4
STORED stored_w8(uint column, uint k8) {
    return w[column * (k / 8) + k8];
}
uvec4 as_halves(STORED e) {
    return e;
}
#endif

// w[column, 8 * k8 .. 8 * k8 + 8] with zeros past the edges: no numbers and a scale of zero.
STORED load_w8(uint column, uint k8) {
    return column < n && 8 * k8 < k ? stored_w8(column, k8) : STORED(0);
}

void main() {
    uint t = gl_LocalInvocationID.x;
    uint first_row = gl_WorkGroupID.x * TILE;
    uint first_column = gl_WorkGroupID.y * TILE;
    uint my_row = gl_SubgroupID / 2 * 64;
    uint my_column = gl_SubgroupID % 2 * 64;

    coopmat<float, gl_ScopeSubgroup, 16, 16, gl_MatrixUseAccumulator> acc[4][4];
    [[unroll]] for (uint i = 0; i < 4; i++) {
        [[unroll]] for (uint j = 0; j < 4; j++) {
            acc[i][j] = coopmat<float, gl_ScopeSubgroup, 16, 16, gl_MatrixUseAccumulator>(0.0);
        }
    }
#if HAS_GAIN
    [[unroll]] for (uint i = 0; i < SHARE; i++) {
        squares[t + i * LOCAL_X] = 0.0;
    }
#endif
    uvec4 next_x[SHARE];
    STORED next_w[SHARE];
    [[unroll]] for (uint i = 0; i < SHARE; i++) {
        uint e = t + i * LOCAL_X;
        next_x[i] = x8(first_row + e / VECTORS, e % VECTORS, e);
        next_w[i] = load_w8(first_column + e / VECTORS, e % VECTORS);
    }
    for (uint k0 = 0; k0 < k; k0 += STEP) {
        barrier();
        [[unroll]] for (uint i = 0; i < SHARE; i++) {
            uint e = t + i * LOCAL_X;
            tile_x[e / VECTORS * LINE + e % VECTORS] = next_x[i];
            tile_w[e / VECTORS * LINE + e % VECTORS] = as_halves(next_w[i]);
        }
        barrier();
        // Past the last step these are zeros that nobody uses.
        [[unroll]] for (uint i = 0; i < SHARE; i++) {
            uint e = t + i * LOCAL_X;
            uint k8 = (k0 + STEP) / 8 + e % VECTORS;
            next_x[i] = x8(first_row + e / VECTORS, k8, e);
            next_w[i] = load_w8(first_column + e / VECTORS, k8);
        }
        [[unroll]] for (uint kk = 0; kk < STEP / 16; kk++) {
            coopmat<float16_t, gl_ScopeSubgroup, 16, 16, gl_MatrixUseA> a[4];
            coopmat<float16_t, gl_ScopeSubgroup, 16, 16, gl_MatrixUseB> b[4];
            [[unroll]] for (uint i = 0; i < 4; i++) {
                coopMatLoad(a[i], tile_x, (my_row + 16 * i) * LINE + 2 * kk, LINE, gl_CooperativeMatrixLayoutRowMajor);
                coopMatLoad(b[i], tile_w, (my_column + 16 * i) * LINE + 2 * kk, LINE,
                            gl_CooperativeMatrixLayoutColumnMajor);
            }
            [[unroll]] for (uint i = 0; i < 4; i++) {
                [[unroll]] for (uint j = 0; j < 4; j++) {
                    acc[i][j] = coopMatMulAdd(a[i], b[j], acc[i][j]);
                }
            }
        }
    }

    // The epilogue needs to know which element is which, which a fragment does not tell: through shared memory, where
    // each subgroup has a part of its own.
    barrier();
    uint base = gl_SubgroupID * 16 * STAGE_LINE;
    uint lane = gl_SubgroupInvocationID;
    [[unroll]] for (uint i = 0; i < 4; i++) {
        [[unroll]] for (uint j = 0; j < 4; j++) {
            subgroupMemoryBarrierShared();
            subgroupBarrier();
            coopMatStore(acc[i][j], stage, base, STAGE_LINE, gl_CooperativeMatrixLayoutRowMajor);
            subgroupMemoryBarrierShared();
            subgroupBarrier();
            [[unroll]] for (uint e = 0; e < 2; e++) {
                uint row = e * 8 + lane / 4;
                vec4 sums = uintBitsToFloat(stage[base + row * STAGE_LINE + lane % 4]);
#if HAS_GAIN
                uint slot = (my_row + 16 * i + row) * VECTORS;
                float square_sum = squares[slot] + squares[slot + 1] + squares[slot + 2] + squares[slot + 3];
                sums *= rms_scale(square_sum) / SHRINK;
#endif
                finish(first_row + my_row + 16 * i + row, first_column + my_column + 16 * j + 4 * (lane % 4), sums);
            }
        }
    }
#if HAS_NORM_WEIGHT
    finish_rows(gl_WorkGroupID.x, first_row, TILE, gl_NumWorkGroups.y);
#endif
}
