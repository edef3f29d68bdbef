// x w^T for devices with narrow subgroups, which are CPUs: memory shared by a workgroup is no faster there than any
// other and a barrier is costly, while a load from one address for the whole workgroup is cheap. Each invocation keeps
// 4 * FOURS columns of ROWS rows in registers. x is loaded once for all invocations; w by each for itself, 16 bytes at a
// time, as a load that differs between lanes is done lane by lane.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "include/storage.glsl"

layout(local_size_x = LOCAL_X) in;
#define W_BY_16_BYTES
#include "include/linear_io.glsl"

#include "include/gemv_operands.glsl"

const uint COLUMNS = 4 * FOURS;

void main() {
    uint first_row = gl_WorkGroupID.x * ROWS;
    uint column = COLUMNS * (gl_WorkGroupID.y * LOCAL_X + gl_LocalInvocationID.x);
    // Past the edges the last row and columns are computed again and not written: no branch stands in the loop.
    vec4 acc[ROWS][FOURS];
    float squares[ROWS];
    [[unroll]] for (uint r = 0; r < ROWS; r++) {
        [[unroll]] for (uint f = 0; f < FOURS; f++) {
            acc[r][f] = vec4(0.0);
        }
        squares[r] = 0.0;
    }
    W_ROW line[COLUMNS];
    [[unroll]] for (uint c = 0; c < COLUMNS; c++) {
        line[c] = w_row(min(column + c, n - 1));
    }
    for (uint at = 0; at < k / PER; at++) {
        uvec4 q[COLUMNS];
        GROUP scale[COLUMNS];
        [[unroll]] for (uint c = 0; c < COLUMNS; c++) {
            uint place = w_vector(line[c], at);
            q[c] = w[place];
            scale[c] = group_at(w_group(place));
        }
        // Not unrolled, or llvmpipe takes several times as long to compile it.
        for (uint i = 0; i < VECTORS; i++) {
            vec4 b[COLUMNS];
            [[unroll]] for (uint c = 0; c < COLUMNS; c++) {
                b[c] = weights(q[c], i, scale[c]);
            }
#if HAS_GAIN
            vec4 gains = gain_inside(at * VECTORS + i);
#endif
            [[unroll]] for (uint r = 0; r < ROWS; r++) {
                vec4 a = x_inside(min(first_row + r, m - 1), at * VECTORS + i);
#if HAS_GAIN
                squares[r] += dot(a, a);
                a *= gains;
#endif
                [[unroll]] for (uint f = 0; f < FOURS; f++) {
                    acc[r][f] += vec4(dot(a, b[4 * f]), dot(a, b[4 * f + 1]), dot(a, b[4 * f + 2]), dot(a, b[4 * f + 3]));
                }
            }
        }
    }
    [[unroll]] for (uint r = 0; r < ROWS; r++) {
        [[unroll]] for (uint f = 0; f < FOURS; f++) {
#if HAS_GAIN
            acc[r][f] *= rms_scale(squares[r]);
#endif
            finish(first_row + r, column + 4 * f, acc[r][f]);
        }
    }
#if HAS_NORM_WEIGHT
    finish_rows(gl_WorkGroupID.x, first_row, ROWS, gl_NumWorkGroups.y);
#endif
}
