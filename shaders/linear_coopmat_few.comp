// x w^T for few rows on matrix units. A workgroup makes 16 * ROW_FRAGMENTS rows of 16 columns; its subgroups take turns
// along k, straight from memory into fragments (an operand is used once, so shared memory would only add a step), and
// their partial products are summed in shared memory. Sizes are whole fragments: a fragment load knows no edges.
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

const uint SUBGROUPS = LOCAL_X / 32;
const uint ROWS = 16 * ROW_FRAGMENTS;
// f32 sums of one subgroup, four to a vector.
const uint PARTIAL = ROWS * 4;
shared uvec4 partial[SUBGROUPS * PARTIAL];

void main() {
    uint first_row = gl_WorkGroupID.x * ROWS;
    uint first_column = gl_WorkGroupID.y * 16;
    uint line = k / 8;

    coopmat<float, gl_ScopeSubgroup, 16, 16, gl_MatrixUseAccumulator> acc[ROW_FRAGMENTS];
    [[unroll]] for (uint i = 0; i < ROW_FRAGMENTS; i++) {
        acc[i] = coopmat<float, gl_ScopeSubgroup, 16, 16, gl_MatrixUseAccumulator>(0.0);
    }
    for (uint step = gl_SubgroupID; step < k / 16; step += SUBGROUPS) {
        coopmat<float16_t, gl_ScopeSubgroup, 16, 16, gl_MatrixUseB> b;
        coopMatLoad(b, w, first_column * line + 2 * step, line, gl_CooperativeMatrixLayoutColumnMajor);
        [[unroll]] for (uint i = 0; i < ROW_FRAGMENTS; i++) {
            coopmat<float16_t, gl_ScopeSubgroup, 16, 16, gl_MatrixUseA> a;
            coopMatLoad(a, x, (first_row + 16 * i) * line + 2 * step, line, gl_CooperativeMatrixLayoutRowMajor);
            acc[i] = coopMatMulAdd(a, b, acc[i]);
        }
    }
    [[unroll]] for (uint i = 0; i < ROW_FRAGMENTS; i++) {
        coopMatStore(acc[i], partial, gl_SubgroupID * PARTIAL + i * 64, 4, gl_CooperativeMatrixLayoutRowMajor);
    }
    barrier();
    for (uint v = gl_LocalInvocationID.x; v < PARTIAL; v += LOCAL_X) {
        vec4 sums = vec4(0.0);
        for (uint subgroup = 0; subgroup < SUBGROUPS; subgroup++) {
            sums += uintBitsToFloat(partial[subgroup * PARTIAL + v]);
        }
        finish(first_row + v / 4, first_column + 4 * (v % 4), sums);
    }
#if HAS_NORM_WEIGHT
    finish_rows(gl_WorkGroupID.x, first_row, ROWS, gl_NumWorkGroups.y);
#endif
}
