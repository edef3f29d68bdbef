// One row per sequence, one sequence a workgroup. The workgroup is COLUMNS wide and WIDTH / COLUMNS rows high: each
// line of it takes every so many rows of the sequence, and line 0 joins what the lines found.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "include/storage.glsl"

layout(constant_id = 0) const uint WIDTH = 64;
layout(local_size_x_id = 0) in;
#include "include/reduce.glsl"

layout(binding = BIND_X) readonly buffer In0 { A x[]; };
layout(binding = BIND_SPANS) readonly buffer In1 { uvec2 spans[]; };
layout(binding = BIND_Y) buffer Out { float y[]; };
layout(push_constant) uniform Push { uint m, d, b; float eps; };

const uint COLUMNS = WIDTH < 128 ? WIDTH : 128;
const uint LINES = WIDTH / COLUMNS;
shared float lines[WIDTH];

float join(float a, float b) {
#if KIND == KIND_MAX
    return max(a, b);
#else
    return a + b;
#endif
}

void main() {
    uint sequence = workgroup_number();
    if (sequence >= b) {
        return;
    }
    uint first = spans[sequence].x;
    uint length = min(spans[sequence].y, m - min(first, m));
#if KIND == KIND_CLS
    uint from = 0, to = min(length, 1u);
#elif KIND == KIND_LAST
    uint from = max(length, 1u) - 1, to = length;
#else
    uint from = 0, to = length;
#endif
#if KIND == KIND_MAX
    float start = -3.0e38;
#else
    float start = 0.0;
#endif
    uint line = gl_LocalInvocationID.x / COLUMNS;
    uint column = gl_LocalInvocationID.x % COLUMNS;
    float squares = 0.0;
    for (uint j0 = 0; j0 < d; j0 += COLUMNS) {
        uint j = j0 + column;
        float value = start;
        if (j < d && line < LINES) {
            for (uint r = from + line; r < to; r += LINES) {
                value = join(value, float(x[(first + r) * d + j]));
            }
        }
        barrier();
        lines[gl_LocalInvocationID.x] = value;
        barrier();
        if (line == 0 && j < d) {
            for (uint other = 1; other < LINES; other++) {
                value = join(value, lines[other * COLUMNS + column]);
            }
#if KIND == KIND_MEAN
            value /= float(max(length, 1u));
#endif
            value = length == 0 ? 0.0 : value;
            squares += value * value;
            y[sequence * d + j] = value;
        }
    }
#if OPT_NORMALIZE
    // Each invocation reads back what it wrote itself, so no barrier is needed for y.
    float scale = 1.0 / max(sqrt(workgroup_sum(squares)), eps);
    if (line == 0) {
        for (uint j = column; j < d; j += COLUMNS) {
            y[sequence * d + j] *= scale;
        }
    }
#endif
}
