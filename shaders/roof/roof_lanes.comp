// Counts the elements of fragments that are not in the invocation, or not at the number, that `coopmat_lanes` says.
#version 460
#extension GL_KHR_cooperative_matrix : require
#extension GL_KHR_memory_scope_semantics : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_EXT_shader_16bit_storage : require
#extension GL_EXT_shader_explicit_arithmetic_types_float16 : require

layout(local_size_x = 32) in;

layout(binding = BIND_Y) writeonly buffer Out { float y[]; };

// Element [i][j] is 16 i + j, or 8 i + j where there are eight columns: f16 holds these exactly.
shared float16_t halves[256];
shared float floats[256];

void main() {
    uint lane = gl_SubgroupInvocationID;
    for (uint i = lane; i < 256; i += 32) {
        halves[i] = float16_t(i);
        floats[i] = float(i);
    }
    barrier();
    coopmat<float16_t, gl_ScopeSubgroup, 16, 16, gl_MatrixUseA> a;
    coopmat<float16_t, gl_ScopeSubgroup, 16, 16, gl_MatrixUseB> b;
    coopmat<float, gl_ScopeSubgroup, 16, 16, gl_MatrixUseAccumulator> sums;
    coopMatLoad(a, halves, 0, 16, gl_CooperativeMatrixLayoutRowMajor);
    coopMatLoad(b, halves, 0, 16, gl_CooperativeMatrixLayoutColumnMajor);
    coopMatLoad(sums, floats, 0, 16, gl_CooperativeMatrixLayoutRowMajor);
    uint elsewhere = 0;
    coopmat<float16_t, gl_ScopeSubgroup, 16, 8, gl_MatrixUseB> half_b;
    coopmat<float, gl_ScopeSubgroup, 16, 8, gl_MatrixUseAccumulator> half_sums;
    coopMatLoad(half_b, halves, 0, 16, gl_CooperativeMatrixLayoutColumnMajor);
    coopMatLoad(half_sums, floats, 0, 8, gl_CooperativeMatrixLayoutRowMajor);
    if (a.length() != 8 || b.length() != 8 || sums.length() != 8 || half_b.length() != 4 || half_sums.length() != 4) {
        elsewhere = 32;
    } else {
        [[unroll]] for (uint e = 0; e < 8; e++) {
            // Rows of A and of the sums, columns of B; then columns, or rows of B.
            float there = float(16 * (lane / 4 + e / 4 * 8) + lane % 4 * 2 + e % 2 + e / 2 % 2 * 8);
            elsewhere += uint(float(a[e]) != there) + uint(float(b[e]) != there) + uint(sums[e] != there);
        }
        [[unroll]] for (uint e = 0; e < 4; e++) {
            // Columns of eight, and rows of their sums.
            elsewhere += uint(float(half_b[e]) != float(16 * (lane / 4) + lane % 4 * 2 + e % 2 + e / 2 * 8));
            elsewhere += uint(half_sums[e] != float(8 * (lane / 4 + e / 2 * 8) + lane % 4 * 2 + e % 2));
        }
    }
    y[lane] = float(elsewhere);
}
