// x w^T in tiles of TILE_M x TILE_N: TILE_K columns of both operands at a time go through shared memory, transposed,
// and each invocation keeps 4 x 4 products in registers. Any size: loads past an edge give zeros, writes past it are
// left out.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "include/storage.glsl"

layout(constant_id = 0) const uint TILE_M = 64;
layout(constant_id = 1) const uint TILE_N = 64;
layout(constant_id = 2) const uint TILE_K = 16;
layout(local_size_x = LOCAL_X) in;
#include "include/linear_io.glsl"

// One padding vector a line keeps the transposing stores off each other's banks.
const uint LINE_M = TILE_M / 4 + 1;
const uint LINE_N = TILE_N / 4 + 1;
shared vec4 tile_x[TILE_K * LINE_M];
shared vec4 tile_w[TILE_K * LINE_N];
#if HAS_GAIN
// Sums of squares of x: each element belongs to the invocation that loads that place of every tile.
shared float squares[TILE_M * TILE_K / 4];
#endif

void main() {
    uint t = gl_LocalInvocationID.x;
    uint first_row = gl_WorkGroupID.x * TILE_M;
    uint first_column = gl_WorkGroupID.y * TILE_N;
    uint my_row = t / (TILE_N / 4);
    uint my_column = t % (TILE_N / 4);

    // acc[i] holds row 4 * my_row + i, columns 4 * my_column ..
    vec4 acc[4] = vec4[4](vec4(0.0), vec4(0.0), vec4(0.0), vec4(0.0));
#if HAS_GAIN
    for (uint e = t; e < TILE_M * TILE_K / 4; e += LOCAL_X) {
        squares[e] = 0.0;
    }
#endif
    for (uint k0 = 0; k0 < k; k0 += TILE_K) {
        barrier();
        for (uint e = t; e < TILE_M * TILE_K / 4; e += LOCAL_X) {
            uint row = e / (TILE_K / 4);
            uint k4 = e % (TILE_K / 4);
            vec4 v = load_x(first_row + row, k0 / 4 + k4);
#if HAS_GAIN
            squares[e] += dot(v, v);
            v *= gain_inside(min(k0 / 4 + k4, (k - 1) / 4));
#endif
            [[unroll]] for (uint i = 0; i < 4; i++) {
                tile_x[(4 * k4 + i) * LINE_M + row / 4][row % 4] = v[i];
            }
        }
        for (uint e = t; e < TILE_N * TILE_K / 4; e += LOCAL_X) {
            uint column = e / (TILE_K / 4);
            uint k4 = e % (TILE_K / 4);
            vec4 v = load_w(first_column + column, k0 / 4 + k4);
            [[unroll]] for (uint i = 0; i < 4; i++) {
                tile_w[(4 * k4 + i) * LINE_N + column / 4][column % 4] = v[i];
            }
        }
        barrier();
        for (uint kk = 0; kk < TILE_K; kk++) {
            vec4 a = tile_x[kk * LINE_M + my_row];
            vec4 b = tile_w[kk * LINE_N + my_column];
            [[unroll]] for (uint i = 0; i < 4; i++) {
                acc[i] += a[i] * b;
            }
        }
    }

#if HAS_GAIN
    barrier();
#endif
    [[unroll]] for (uint i = 0; i < 4; i++) {
#if HAS_GAIN
        float total = 0.0;
        for (uint part = 0; part < TILE_K / 4; part++) {
            total += squares[(4 * my_row + i) * (TILE_K / 4) + part];
        }
        acc[i] *= rms_scale(total);
#endif
        finish(first_row + 4 * my_row + i, first_column + 4 * my_column, acc[i]);
    }
#if HAS_NORM_WEIGHT
    finish_rows(gl_WorkGroupID.x, first_row, TILE_M, gl_NumWorkGroups.y);
#endif
}
