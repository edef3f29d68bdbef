// x w^T for few rows. Such a product has too few outputs to fill a device with tiles, so the work is split over k: all
// LANES invocations of a workgroup walk k side by side (neighbours read neighbouring memory) and each keeps a partial
// sum of every one of the workgroup's ROWS x COLUMNS outputs.
//
// The partial sums of a subgroup of 32 meet by halving: in each of five steps a lane hands half of its outputs to the
// lane across and takes over the other half of that lane's, so that 31 exchanges leave output i summed on lane i.
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_arithmetic : require
#extension GL_KHR_shader_subgroup_shuffle : require
#include "include/storage.glsl"

layout(constant_id = 0) const uint LANES = 128;
layout(local_size_x = LOCAL_X) in;
#define ROWS_BY_SUBGROUP
#include "include/linear_io.glsl"

const uint ROWS = 4;
const uint COLUMNS = 8;
const uint OUTPUTS = ROWS * COLUMNS;
shared float sums[LANES / 32 * OUTPUTS];

void main() {
    uint t = gl_LocalInvocationID.x;
    uint first_row = gl_WorkGroupID.x * ROWS;
    uint first_column = gl_WorkGroupID.y * COLUMNS;

    float acc[OUTPUTS];
    [[unroll]] for (uint o = 0; o < OUTPUTS; o++) {
        acc[o] = 0.0;
    }
    for (uint k4 = t; 4 * k4 < k; k4 += LANES) {
        vec4 a[ROWS];
        vec4 b[COLUMNS];
        [[unroll]] for (uint r = 0; r < ROWS; r++) {
            a[r] = load_x(first_row + r, k4);
        }
        [[unroll]] for (uint c = 0; c < COLUMNS; c++) {
            b[c] = load_w(first_column + c, k4);
        }
        [[unroll]] for (uint r = 0; r < ROWS; r++) {
            [[unroll]] for (uint c = 0; c < COLUMNS; c++) {
                acc[r * COLUMNS + c] += dot(a[r], b[c]);
            }
        }
    }
    uint lane = gl_SubgroupInvocationID;
    [[unroll]] for (uint half_of = OUTPUTS / 2; half_of > 0; half_of /= 2) {
        bool upper = (lane & half_of) != 0;
        [[unroll]] for (uint o = 0; o < half_of; o++) {
            float keep = upper ? acc[o + half_of] : acc[o];
            float give = upper ? acc[o] : acc[o + half_of];
            acc[o] = keep + subgroupShuffleXor(give, half_of);
        }
    }
    sums[gl_SubgroupID * OUTPUTS + lane] = acc[0];
    barrier();
    if (t < OUTPUTS / 4) {
        vec4 total = vec4(0.0);
        for (uint subgroup = 0; subgroup < LANES / 32; subgroup++) {
            [[unroll]] for (uint i = 0; i < 4; i++) {
                total[i] += sums[subgroup * OUTPUTS + 4 * t + i];
            }
        }
        finish(first_row + 4 * t / COLUMNS, first_column + 4 * t % COLUMNS, total);
    }
#if HAS_NORM_WEIGHT
    finish_rows(gl_WorkGroupID.x, first_row, ROWS, gl_NumWorkGroups.y);
#endif
}
