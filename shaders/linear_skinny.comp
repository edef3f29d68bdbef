// x w^T for few rows. Such a product has too few outputs to fill a device with tiles, so the work is split over k: all
// LANES invocations of a workgroup walk k side by side (neighbours read neighbouring memory) and each keeps a partial
// sum of every one of the workgroup's ROWS x COLUMNS outputs. The partial sums meet in shared memory at the end.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "include/storage.glsl"

layout(constant_id = 0) const uint LANES = 128;
layout(local_size_x = LOCAL_X) in;
#include "include/linear_io.glsl"

const uint ROWS = 4;
const uint COLUMNS = 8;
const uint OUTPUTS = ROWS * COLUMNS;
// One padding word a lane, so that invocations that read one output of many lanes hit different banks.
const uint LINE = OUTPUTS + 1;
shared float partial[LANES * LINE];

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
    [[unroll]] for (uint o = 0; o < OUTPUTS; o++) {
        partial[t * LINE + o] = acc[o];
    }
    barrier();
    // Each invocation sums one output over OUTPUTS lanes; the sums land on the first lane of those.
    uint mine = t % OUTPUTS;
    uint group = t / OUTPUTS * OUTPUTS;
    float total = 0.0;
    for (uint lane = group; lane < min(group + OUTPUTS, LANES); lane++) {
        total += partial[lane * LINE + mine];
    }
    barrier();
    partial[group * LINE + mine] = total;
    barrier();
    if (t < OUTPUTS / 4) {
        vec4 sums = vec4(0.0);
        for (uint lane = 0; lane < LANES; lane += OUTPUTS) {
            [[unroll]] for (uint i = 0; i < 4; i++) {
                sums[i] += partial[lane * LINE + 4 * t + i];
            }
        }
        finish(first_row + 4 * t / COLUMNS, first_column + 4 * t % COLUMNS, sums);
    }
#if HAS_NORM_WEIGHT
    finish_rows(gl_WorkGroupID.x, first_row, ROWS, gl_NumWorkGroups.y);
#endif
}
