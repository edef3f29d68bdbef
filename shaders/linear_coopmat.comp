// x w^T on matrix units (KHR cooperative matrix), f16 operands and f32 sums. Block formats become f16 on their way into
// the tile. A workgroup makes a TILE_M x TILE_N tile with GRID_M x GRID_N subgroups, each of which has its
// part of it as fragments of 16 x 16. Where rows are few, SHARES teams of such subgroups divide the columns of x and w
// among themselves and add their sums in the end.
//
// One stage of STEP columns of both operands is in shared memory while the next one is on its way into registers: a second
// stage there would halve the number of resident workgroups, which costs more than it hides (48 KiB a compute unit is all
// that Vulkan gives on the device this was measured on).
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

const uint VECTORS = STEP / 8;
// One padding vector a line, so that fragment loads hit different banks.
const uint LINE = VECTORS + 1;
const uint TEAM_SUBGROUPS = GRID_M * GRID_N;
const uint SUBGROUPS = TEAM_SUBGROUPS * SHARES;
// Fragments of a subgroup.
const uint ROWS = TILE_M / 16 / GRID_M;
const uint COLUMNS = TILE_N / 16 / GRID_N;
// Vectors that an invocation brings in a step, the last of them where there is one.
const uint BRINGS_X = (TILE_M * VECTORS + LOCAL_X - 1) / LOCAL_X;
const uint BRINGS_W = (TILE_N * VECTORS + LOCAL_X - 1) / LOCAL_X;
// In the end the memory of the tile is idle. Then each subgroup lays finished fragments there for the epilogue: memory of
// their own would keep other workgroups off the compute unit.
const uint STAGE_LINE = 5;
const uint STAGE = 16 * STAGE_LINE;
shared uvec4 tile[TILE_VECTORS];
const uint TILE_W = TILE_M * LINE;

// x[row, 8 * k8 .. 8 * k8 + 8] with zeros past the edges.
uvec4 load_x8(uint row, uint k8) {
    return row < m && 8 * k8 < k ? x[row * (k / 8) + k8] : uvec4(0);
}

// Eight elements of w as they stand in memory, with what their group shares. They become f16 only on their way into
// shared memory: a conversion right behind the load would wait for it, where the matrix units should be working.
// Integers become f16 by bits: 0x6400 is 1024, whose last bits count ones.
#if W_INT8
#define StoredW uvec3
StoredW stored_w8(uint column, uint k8) {
    uint at = tiled_element(column, 8 * k8, n, k, 16);
    f16vec2 scale = f16vec2(w_scale[int8_group(n * k, at, W_GROUP)]);
    return uvec3(w[at / 8], packFloat2x16(scale));
}
uint int8_pair(uint word, f16vec2 scale) {
    uint pair = word & 0xff | (word & 0xff00) << 8 | 0x64006400;
    return packFloat2x16((unpackFloat2x16(pair) - f16vec2(1152.0)) * scale);
}
uvec4 as_halves(StoredW e) {
    f16vec2 scale = unpackFloat2x16(e.z);
    uvec2 q = e.xy ^ 0x80808080;
    return uvec4(int8_pair(q.x, scale), int8_pair(q.x >> 16, scale), int8_pair(q.y, scale),
                 int8_pair(q.y >> 16, scale));
}
#elif W_INT4
#define StoredW uvec2
StoredW stored_w8(uint column, uint k8) {
    uint at = tiled_element(column, 8 * k8, n, k, 32);
    return uvec2(w[at / 8], packFloat2x16(w_scale[int4_group(n * k, at, W_GROUP)]));
}
uint int4_pair(uint word, f16vec2 group) {
    uint pair = word & 15 | (word & 0xf0) << 12 | 0x64006400;
    return packFloat2x16(fma(unpackFloat2x16(pair) - f16vec2(1024.0), group.xx, group.yy));
}
uvec4 as_halves(StoredW e) {
    f16vec2 group = unpackFloat2x16(e.y);
    return uvec4(int4_pair(e.x, group), int4_pair(e.x >> 8, group), int4_pair(e.x >> 16, group),
                 int4_pair(e.x >> 24, group));
}
#else
#define StoredW uvec4
StoredW stored_w8(uint column, uint k8) {
    return w[column * (k / 8) + k8];
}
uvec4 as_halves(StoredW e) {
    return e;
}
#endif

// w[column, 8 * k8 .. 8 * k8 + 8] with zeros past the edges: no numbers and a scale of zero.
StoredW load_w8(uint column, uint k8) {
    return column < n && 8 * k8 < k ? stored_w8(column, k8) : StoredW(0);
}

// What an invocation brings of the step that begins at column 8 * k8. Text, not a function: what is on its way must be
// in registers of `main`.
#define BRING(k8) \
    [[unroll]] for (uint i = 0; i < BRINGS_X; i++) { \
        uint e = t + i * LOCAL_X; \
        if (TILE_M * VECTORS % LOCAL_X == 0 || e < TILE_M * VECTORS) { \
            next_x[i] = load_x8(first_row + e / VECTORS, (k8) + e % VECTORS); \
        } \
    } \
    [[unroll]] for (uint i = 0; i < BRINGS_W; i++) { \
        uint e = t + i * LOCAL_X; \
        if (TILE_N * VECTORS % LOCAL_X == 0 || e < TILE_N * VECTORS) { \
            next_w[i] = load_w8(first_column + e / VECTORS, (k8) + e % VECTORS); \
        } \
    }

#include "include/meet.glsl"

void main() {
    uint t = gl_LocalInvocationID.x;
    uint first_row = gl_WorkGroupID.x * TILE_M;
    uint first_column = gl_WorkGroupID.y * TILE_N;
    uint team = gl_SubgroupID / TEAM_SUBGROUPS;
    uint member = gl_SubgroupID % TEAM_SUBGROUPS;
    uint my_row = member / GRID_N * ROWS * 16;
    uint my_column = member % GRID_N * COLUMNS * 16;

    coopmat<float, gl_ScopeSubgroup, 16, 16, gl_MatrixUseAccumulator> acc[ROWS][COLUMNS];
    [[unroll]] for (uint i = 0; i < ROWS; i++) {
        [[unroll]] for (uint j = 0; j < COLUMNS; j++) {
            acc[i][j] = coopmat<float, gl_ScopeSubgroup, 16, 16, gl_MatrixUseAccumulator>(0.0);
        }
    }
    uvec4 next_x[BRINGS_X];
    StoredW next_w[BRINGS_W];
    BRING(0)
    // The same loop, counted in vectors or in columns. It should not matter, but the driver (NVIDIA 580) keeps what is on its
    // way away from the arithmetic in the first form for small tiles (63 us for 16 x 14336 by 4096 x 14336 in int8, 100 in
    // the other form) and in the second form for large ones (184 us for 512 x 4096 by 6144 x 4096, 261 in the other).
#if SHARES > 1
    for (uint k8 = 0; k8 < k / 8; k8 += VECTORS) {
#define NEXT_K8 (k8 + VECTORS)
#else
    for (uint k0 = 0; k0 < k; k0 += STEP) {
#define NEXT_K8 ((k0 + STEP) / 8)
#endif
        barrier();
        [[unroll]] for (uint i = 0; i < BRINGS_X; i++) {
            uint e = t + i * LOCAL_X;
            if (TILE_M * VECTORS % LOCAL_X == 0 || e < TILE_M * VECTORS) {
                tile[e / VECTORS * LINE + e % VECTORS] = next_x[i];
            }
        }
        [[unroll]] for (uint i = 0; i < BRINGS_W; i++) {
            uint e = t + i * LOCAL_X;
            if (TILE_N * VECTORS % LOCAL_X == 0 || e < TILE_N * VECTORS) {
                tile[TILE_W + e / VECTORS * LINE + e % VECTORS] = as_halves(next_w[i]);
            }
        }
        barrier();
        // Past the last step these are zeros that nobody uses.
        BRING(NEXT_K8)
        [[unroll]] for (uint part = 0; part < STEP / 16 / SHARES; part++) {
            uint at = 2 * (part * SHARES + team);
            coopmat<float16_t, gl_ScopeSubgroup, 16, 16, gl_MatrixUseA> a[ROWS];
            coopmat<float16_t, gl_ScopeSubgroup, 16, 16, gl_MatrixUseB> b[COLUMNS];
            [[unroll]] for (uint i = 0; i < ROWS; i++) {
                coopMatLoad(a[i], tile, (my_row + 16 * i) * LINE + at, LINE, gl_CooperativeMatrixLayoutRowMajor);
            }
            [[unroll]] for (uint j = 0; j < COLUMNS; j++) {
                coopMatLoad(b[j], tile, TILE_W + (my_column + 16 * j) * LINE + at, LINE,
                            gl_CooperativeMatrixLayoutColumnMajor);
            }
            [[unroll]] for (uint i = 0; i < ROWS; i++) {
                [[unroll]] for (uint j = 0; j < COLUMNS; j++) {
                    acc[i][j] = coopMatMulAdd(a[i], b[j], acc[i][j]);
                }
            }
        }
    }

    // The epilogue needs to know which element is which, which a fragment does not tell: through shared memory, where
    // each subgroup has a part of its own. What the teams of other columns made of the same fragment is added there.
    barrier();
    uint lane = gl_SubgroupInvocationID;
    [[unroll]] for (uint i = 0; i < ROWS; i++) {
        [[unroll]] for (uint j = 0; j < COLUMNS; j++) {
            meet();
            coopMatStore(acc[i][j], tile, gl_SubgroupID * STAGE, STAGE_LINE, gl_CooperativeMatrixLayoutRowMajor);
            meet();
            // 16 rows of four vectors, divided among the teams. A loop that the driver could not unroll would keep the
            // fragments out of registers from the beginning.
            [[unroll]] for (uint turn = 0; turn < (SHARES + 1) / SHARES; turn++) {
                uint e = (turn * SHARES + team) * 32 + lane;
                if (SHARES <= 2 || e < 64) {
                    uint row = my_row + 16 * i + e / 4;
                    vec4 sums = vec4(0.0);
                    [[unroll]] for (uint share = 0; share < SHARES; share++) {
                        uint stage = (share * TEAM_SUBGROUPS + member) * STAGE;
                        sums += uintBitsToFloat(tile[stage + e / 4 * STAGE_LINE + e % 4]);
                    }
                    finish(first_row + row, first_column + my_column + 16 * j + 4 * (e % 4), sums);
                }
            }
        }
    }
#if HAS_NORM_WEIGHT
    finish_rows(gl_WorkGroupID.x, first_row, TILE_M, gl_NumWorkGroups.y);
#endif
}
