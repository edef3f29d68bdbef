// x w^T for devices with narrow subgroups, which are CPUs: memory shared by a workgroup is no faster there than any
// other and a barrier is costly, while a load from one address for the whole workgroup is cheap. Each invocation
// keeps 4 columns of ROWS rows in registers; x is loaded once for all invocations, w by each for itself.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "include/storage.glsl"

layout(constant_id = 0) const uint LANES = 32;
layout(local_size_x = LOCAL_X) in;
#include "include/linear_io.glsl"

const uint ROWS = 16;

void main() {
    uint first_row = gl_WorkGroupID.x * ROWS;
    uint column = 4 * (gl_WorkGroupID.y * LANES + gl_LocalInvocationID.x);
    // Past the edges the last row and columns are computed again and not written: no branch stands in the loop.
    vec4 acc[ROWS];
    float squares[ROWS];
    [[unroll]] for (uint r = 0; r < ROWS; r++) {
        acc[r] = vec4(0.0);
        squares[r] = 0.0;
    }
    for (uint k4 = 0; k4 < k / 4; k4++) {
        vec4 b[4];
        [[unroll]] for (uint c = 0; c < 4; c++) {
            b[c] = w_inside(min(column + c, n - 1), k4);
#if HAS_GAIN
            b[c] *= gain_inside(k4);
#endif
        }
        [[unroll]] for (uint r = 0; r < ROWS; r++) {
            vec4 a = x_inside(min(first_row + r, m - 1), k4);
            acc[r] += vec4(dot(a, b[0]), dot(a, b[1]), dot(a, b[2]), dot(a, b[3]));
#if HAS_GAIN
            squares[r] += dot(a, a);
#endif
        }
    }
#if HAS_GAIN
    [[unroll]] for (uint r = 0; r < ROWS; r++) {
        acc[r] *= rms_scale(squares[r]);
    }
#endif
    [[unroll]] for (uint r = 0; r < ROWS; r++) {
        finish(first_row + r, column, acc[r]);
    }
#if HAS_NORM_WEIGHT
    finish_rows(gl_WorkGroupID.x, first_row, ROWS, gl_NumWorkGroups.y);
#endif
}
