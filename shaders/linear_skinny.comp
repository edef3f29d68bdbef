// x w^T for few rows. A tile of 16 x 16 outputs is all a workgroup has, so the work is split over k: SLICES groups of
// 16 invocations each take every SLICES-th quadruple of k straight from memory, and the slices are summed at the end.
// That puts many independent loads in flight where a tiled product would leave most of the device idle.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "include/storage.glsl"

layout(constant_id = 0) const uint SLICES = 16;
layout(local_size_x = LOCAL_X) in;
#include "include/linear_io.glsl"

shared vec4 slices[SLICES * 64];

void main() {
    uint t = gl_LocalInvocationID.x;
    uint slice = t / 16;
    uint my_row = t % 16 / 4;
    uint my_column = t % 4;
    uint first_row = gl_WorkGroupID.x * 16;
    uint first_column = gl_WorkGroupID.y * 16;
    uint row = first_row + 4 * my_row;
    uint column = first_column + 4 * my_column;

    // acc[i] holds row + i, columns column ..
    vec4 acc[4] = vec4[4](vec4(0.0), vec4(0.0), vec4(0.0), vec4(0.0));
    for (uint k4 = slice; 4 * k4 < k; k4 += SLICES) {
        vec4 a[4];
        vec4 b[4];
        [[unroll]] for (uint i = 0; i < 4; i++) {
            a[i] = load_x(row + i, k4);
            b[i] = load_w(column + i, k4);
        }
        [[unroll]] for (uint i = 0; i < 4; i++) {
            acc[i] += vec4(dot(a[i], b[0]), dot(a[i], b[1]), dot(a[i], b[2]), dot(a[i], b[3]));
        }
    }
    [[unroll]] for (uint i = 0; i < 4; i++) {
        slices[slice * 64 + (4 * my_row + i) * 4 + my_column] = acc[i];
    }
    barrier();
    // 64 vectors to sum; the invocations of the first four slices take one each.
    for (uint v = t; v < 64; v += LOCAL_X) {
        vec4 total = slices[v];
        for (uint other = 1; other < SLICES; other++) {
            total += slices[other * 64 + v];
        }
        finish(first_row + v / 4, first_column + 4 * (v % 4), total);
    }
#if HAS_NORM_WEIGHT
    finish_rows(gl_WorkGroupID.x, first_row, 16, gl_NumWorkGroups.y);
#endif
}
