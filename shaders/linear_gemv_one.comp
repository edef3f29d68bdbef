// x w^T for a single row: all the time there is goes into reading w. A subgroup makes four neighbouring columns and
// walks k alone (or with SPLIT - 1 others, in turns), so nothing meets at a barrier on the way: each invocation has
// 4 * AHEAD loads of 16 bytes under way, and subgroups run apart, so that the memory never waits for arithmetic.
//
// x comes from the cache next to the cores, as every subgroup reads it. With a gain the workgroup multiplies once and
// keeps the row in shared memory, and sums its squares on the way.
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_arithmetic : require
#include "include/storage.glsl"

layout(local_size_x = LOCAL_X) in;
#define W_BY_16_BYTES
#include "include/linear_io.glsl"

#include "include/gemv_operands.glsl"

#if SPLIT > 1
shared vec4 column_parts[SUBGROUPS];
#endif
#if HAS_GAIN
shared vec4 staged[ROW / 4];
shared float square_parts[SUBGROUPS];
#endif

// Elements 4 * vector .. of x, times the gain.
vec4 scaled_x(uint vector) {
#if HAS_GAIN
    return staged[place(vector)];
#else
    return x_inside(0, vector);
#endif
}

// This invocation's part of four columns: the loads `at`, `at + turn`, .. of each line of w.
vec4 products(uint column, uint loads, uint at, uint turn) {
    W_ROW line[4];
    [[unroll]] for (uint c = 0; c < 4; c++) {
        line[c] = w_row(min(column + c, n - 1));
    }
    vec4 acc = vec4(0.0);
    for (; at < loads; at += AHEAD * turn) {
        uvec4 q[AHEAD][4];
#if W_BLOCKS
        GROUP group[AHEAD][4];
#endif
        [[unroll]] for (uint a = 0; a < AHEAD; a++) {
            // Past the end the last load is repeated, and counts for nothing below.
            uint load = min(at + a * turn, loads - 1);
            [[unroll]] for (uint c = 0; c < 4; c++) {
                uint place = w_vector(line[c], load);
                q[a][c] = w[place];
#if W_BLOCKS
                group[a][c] = group_at(w_group(place));
#endif
            }
        }
        [[unroll]] for (uint a = 0; a < AHEAD; a++) {
            uint load = at + a * turn;
            if (load < loads) {
                vec4 part = vec4(0.0);
#if W_INT4
                float total = 0.0;
#endif
                [[unroll]] for (uint i = 0; i < VECTORS; i++) {
                    vec4 v = scaled_x(load * VECTORS + i);
#if W_INT4
                    total += v.x + v.y + v.z + v.w;
#endif
                    [[unroll]] for (uint c = 0; c < 4; c++) {
                        part[c] += dot(quants(q[a][c], i), v);
                    }
                }
                [[unroll]] for (uint c = 0; c < 4; c++) {
#if W_INT4
                    acc[c] += group[a][c].x * part[c] + group[a][c].y * total;
#elif W_INT8
                    acc[c] += group[a][c] * part[c];
#else
                    acc[c] += part[c];
#endif
                }
            }
        }
    }
    return acc;
}

void main() {
    uint loads = k / PER;
    uint turn = SPLIT * gl_SubgroupSize;
    uint share = gl_SubgroupID % SPLIT;
#if HAS_GAIN
    float squares = 0.0;
    for (uint vector = gl_LocalInvocationID.x; vector < k / 4; vector += LOCAL_X) {
        vec4 v = x_inside(0, vector);
        squares += dot(v, v);
        staged[place(vector)] = v * gain_inside(vector);
    }
    squares = subgroupAdd(squares);
    if (gl_SubgroupInvocationID == 0) {
        square_parts[gl_SubgroupID] = squares;
    }
    barrier();
    float square_sum = 0.0;
    [[unroll]] for (uint subgroup = 0; subgroup < SUBGROUPS; subgroup++) {
        square_sum += square_parts[subgroup];
    }
    float scale = rms_scale(square_sum);
#else
    const float scale = 1.0;
#endif
    uint column = 4 * (workgroup_number() * (SUBGROUPS / SPLIT) + gl_SubgroupID / SPLIT);
    uint at = share * gl_SubgroupSize + gl_SubgroupInvocationID;
    vec4 acc = subgroupAdd(column < n ? products(column, loads, at, turn) : vec4(0.0));
#if SPLIT > 1
    if (gl_SubgroupInvocationID == 0) {
        column_parts[gl_SubgroupID] = acc;
    }
    barrier();
    if (share == 0) {
        [[unroll]] for (uint other = 1; other < SPLIT; other++) {
            acc += column_parts[gl_SubgroupID + other];
        }
    }
#endif
    if (gl_SubgroupInvocationID == 0 && share == 0 && column < n) {
        finish(0, column, scale * acc);
    }
}
