// Four subgroups a workgroup; each keeps sixteen sums of 16 x 16 in registers and adds x[i] w[j] to them again and
// again, the best case of a tiled product.
#version 460
#extension GL_KHR_cooperative_matrix : require
#extension GL_KHR_memory_scope_semantics : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_EXT_shader_16bit_storage : require
#extension GL_EXT_shader_explicit_arithmetic_types_float16 : require

layout(local_size_x = 128) in;

layout(binding = BIND_X) readonly buffer In0 { float16_t x[]; };
layout(binding = BIND_W) readonly buffer In1 { float16_t w[]; };
layout(binding = BIND_Y) writeonly buffer Out { float y[]; };
layout(push_constant) uniform Push { uint g, rounds; };

#define SUMS coopmat<float, gl_ScopeSubgroup, 16, 16, gl_MatrixUseAccumulator>

void main() {
    coopmat<float16_t, gl_ScopeSubgroup, 16, 16, gl_MatrixUseA> a[4];
    coopmat<float16_t, gl_ScopeSubgroup, 16, 16, gl_MatrixUseB> b[4];
    SUMS sums[4][4];
    [[unroll]] for (uint i = 0; i < 4; i++) {
        coopMatLoad(a[i], x, 256 * i, 16, gl_CooperativeMatrixLayoutRowMajor);
        coopMatLoad(b[i], w, 256 * i, 16, gl_CooperativeMatrixLayoutRowMajor);
        [[unroll]] for (uint j = 0; j < 4; j++) sums[i][j] = SUMS(0.0);
    }
    for (uint round = 0; round < rounds; round++) {
        [[unroll]] for (uint i = 0; i < 4; i++) {
            [[unroll]] for (uint j = 0; j < 4; j++) sums[i][j] = coopMatMulAdd(a[i], b[j], sums[i][j]);
        }
    }
    SUMS sum = SUMS(0.0);
    [[unroll]] for (uint i = 0; i < 4; i++) {
        [[unroll]] for (uint j = 0; j < 4; j++) sum = sum + sums[i][j];
    }
    uint s = 4 * gl_WorkGroupID.x + gl_SubgroupID;
    coopMatStore(sum, y, 256 * s, 16, gl_CooperativeMatrixLayoutRowMajor);
}
