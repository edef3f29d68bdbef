// x w^T for few rows and w in int8 or int4, by products of four packed integers with four others. Reading w is all the
// time there is, and widening it to floats would take as long again; so x is taken apart instead, once a workgroup.
//
// x has a scale for every 32 neighbours, and each element is 128 high + low with both in int8: 15 bits for the largest,
// more than the f16 that x is stored in has over that range where neighbours are alike. Its product with w is exact.
// Scales of x and w come to it once every PER elements.
//
// A subgroup makes four neighbouring columns of all ROWS rows and walks k alone (or with SPLIT - 1 others, in turns):
// each invocation has 4 * AHEAD loads of 16 bytes under way, the first of them while x is taken apart. CHUNK elements
// of k fit into shared memory at a time.
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_integer_dot_product : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_arithmetic : require
#include "include/storage.glsl"

layout(local_size_x = LOCAL_X) in;
#define W_BY_16_BYTES
#include "include/linear_io.glsl"

#include "include/gemv_operands.glsl"

// Eight neighbours of x are an eighth, four of which are a group.
const uint EIGHTHS = CHUNK / 8;
const uint GROUPS = ROWS * CHUNK / 32;
const uint TURNS = (EIGHTHS + LOCAL_X - 1) / LOCAL_X;
const float LEVELS = 16256.0;

// x as w meets it. For int8: 16 elements a vector. For int4, whose words hold even elements in low and odd ones in high
// nibbles: the even elements of a group, and GROUPS vectors further its odd ones.
shared uvec4 high[ROWS * CHUNK / 16];
shared uvec4 low[ROWS * CHUNK / 16];
shared float x_scale[GROUPS];
// The largest element of each eighth, as the bits of its magnitude: these are in the order of the numbers, and NaN is
// above all.
shared uvec4 peaks[GROUPS];
#if W_INT4
// The sum of each eighth, in levels.
shared ivec4 totals[GROUPS];
#endif
#if SPLIT > 1
shared vec4 column_parts[ROWS * SUBGROUPS];
#endif
#if HAS_GAIN
shared float square_parts[ROWS * SUBGROUPS];
float squares[ROWS];
#endif

// Levels as the last 16 bits of a float, counted from -BIAS: the sum is rounded to where its last bit stands for one.
const float SHIFT = 8388608.0;
const uint BIAS = 128 * 128 + 64;
uvec4 levels_of(vec4 v, float levels) {
    return floatBitsToUint(fma(v, vec4(levels), vec4(SHIFT + float(BIAS))));
}

// high and low of four of them, each a word.
uvec2 parts_of(uvec4 bits) {
    uvec2 two = bitfieldInsert(bits.xy, bits.zw, 16, 16);
    uint seven = two.x & 0x007f007f | (two.y & 0x007f007f) << 8;
    // high counts from -128, low from -64; low has its sign spread.
    seven ^= 0x40404040;
    return uvec2((two.x >> 7 & 0x00ff00ff | two.y << 1 & 0xff00ff00) ^ 0x80808080, seven | (seven & 0x40404040) << 1);
}

// Takes the elements from `first` on of all rows apart.
void take_apart(uint first) {
    uint t = gl_LocalInvocationID.x;
    vec4 held[ROWS * TURNS][2];
    [[unroll]] for (uint r = 0; r < ROWS; r++) {
        uint row = min(gl_WorkGroupID.y * ROWS + r, m - 1);
        [[unroll]] for (uint turn = 0; turn < TURNS; turn++) {
            uint eighth = turn * LOCAL_X + t;
            // Past the end of the row there are zeros.
            bool inside = eighth < EIGHTHS && first / 8 + eighth < ROW / 8;
            vec4 v[2];
            uint peak = 0;
            [[unroll]] for (uint i = 0; i < 2; i++) {
                v[i] = vec4(0.0);
                if (inside) {
                    v[i] = x_inside(row, first / 4 + 2 * eighth + i);
#if HAS_GAIN
                    squares[r] += dot(v[i], v[i]);
                    v[i] *= gain_inside(first / 4 + 2 * eighth + i);
#endif
                }
                uvec4 bits = floatBitsToUint(v[i]) & 0x7fffffff;
                peak = max(peak, max(max(bits.x, bits.y), max(bits.z, bits.w)));
                held[r * TURNS + turn][i] = v[i];
            }
            if (eighth < EIGHTHS) {
                peaks[r * (CHUNK / 32) + eighth / 4][eighth % 4] = peak;
            }
        }
    }
    barrier();
    [[unroll]] for (uint r = 0; r < ROWS; r++) {
        [[unroll]] for (uint turn = 0; turn < TURNS; turn++) {
            uint eighth = turn * LOCAL_X + t;
            if (eighth >= EIGHTHS) {
                break;
            }
            uint group = r * (CHUNK / 32) + eighth / 4;
            uvec4 bits = peaks[group];
            float peak = uintBitsToFloat(max(max(bits.x, bits.y), max(bits.z, bits.w)));
            float levels = peak > 0.0 ? LEVELS / peak : 0.0;
            if (eighth % 4 == 0) {
                x_scale[group] = peak / LEVELS;
            }
            uvec4 a = levels_of(held[r * TURNS + turn][0], levels);
            uvec4 b = levels_of(held[r * TURNS + turn][1], levels);
#if W_INT4
            uvec4 sum = a + b;
            totals[group][eighth % 4] = int(sum.x + sum.y + sum.z + sum.w - 8 * (floatBitsToUint(SHIFT) + BIAS));
            uvec2 even = parts_of(uvec4(a.xz, b.xz));
            uvec2 odd = parts_of(uvec4(a.yw, b.yw));
            high[group][eighth % 4] = even.x;
            high[GROUPS + group][eighth % 4] = odd.x;
            low[group][eighth % 4] = even.y;
            low[GROUPS + group][eighth % 4] = odd.y;
#else
            uvec2 first_four = parts_of(a);
            uvec2 last_four = parts_of(b);
            uint vector = r * (CHUNK / 16) + eighth / 2;
            if (eighth % 2 == 0) {
                high[vector].xy = uvec2(first_four.x, last_four.x);
                low[vector].xy = uvec2(first_four.y, last_four.y);
            } else {
                high[vector].zw = uvec2(first_four.x, last_four.x);
                low[vector].zw = uvec2(first_four.y, last_four.y);
            }
#endif
        }
    }
    barrier();
}

// AHEAD loads of four columns and what their groups share, those past the end of a line from its last one.
void fetch(out uvec4 q[AHEAD][4], out GROUP shared_by[AHEAD][4], uint line[4], uint groups[4], uint at, uint turn) {
    [[unroll]] for (uint a = 0; a < AHEAD; a++) {
        uint load = min(at + a * turn, ROW / PER - 1);
        [[unroll]] for (uint c = 0; c < 4; c++) {
            q[a][c] = w[line[c] + load];
            shared_by[a][c] = GROUP(w_scale[groups[c] + load * PER / 32]);
        }
    }
}

int product(uvec4 a, uvec4 b, int sum) {
    [[unroll]] for (uint i = 0; i < 4; i++) {
        sum += dotPacked4x8EXT(int(a[i]), int(b[i]));
    }
    return sum;
}

void main() {
    const uint loads = ROW / PER;
    uint share = gl_SubgroupID % SPLIT;
    uint turn = SPLIT * gl_SubgroupSize;
    uint column = 4 * (gl_WorkGroupID.x * (SUBGROUPS / SPLIT) + gl_SubgroupID / SPLIT);
    // An invocation for each row.
    uint mine = gl_SubgroupInvocationID;
    uint first_row = gl_WorkGroupID.y * ROWS;
    Ahead before = ahead(first_row + min(mine, ROWS - 1), column);
    uint line[4];
    uint groups[4];
    [[unroll]] for (uint c = 0; c < 4; c++) {
        line[c] = min(column + c, n - 1) * loads;
        groups[c] = group_index(line[c] * PER);
    }
    vec4 acc[ROWS];
    [[unroll]] for (uint r = 0; r < ROWS; r++) {
        acc[r] = vec4(0.0);
#if HAS_GAIN
        squares[r] = 0.0;
#endif
    }
    for (uint first = 0; first < ROW; first += CHUNK) {
        uint end = min(first + CHUNK, ROW) / PER;
        uint at = first / PER + share * gl_SubgroupSize + gl_SubgroupInvocationID;
        uvec4 q[AHEAD][4];
        GROUP shared_by[AHEAD][4];
        fetch(q, shared_by, line, groups, at, turn);
        if (first > 0) {
            barrier();
        }
        take_apart(first);
        while (true) {
            [[unroll]] for (uint a = 0; a < AHEAD; a++) {
                uint load = at + a * turn;
                if (load < end) {
                    [[unroll]] for (uint r = 0; r < ROWS; r++) {
                        uint group = (r * CHUNK + load * PER - first) / 32;
                        float scale = x_scale[group];
#if W_INT4
                        ivec4 eighths = totals[group];
                        float total = scale * float(eighths.x + eighths.y + eighths.z + eighths.w);
                        uvec4 highs[2] = uvec4[2](high[group], high[GROUPS + group]);
                        uvec4 lows[2] = uvec4[2](low[group], low[GROUPS + group]);
                        [[unroll]] for (uint c = 0; c < 4; c++) {
                            uvec4 even = q[a][c] & 0x0f0f0f0f;
                            uvec4 odd = q[a][c] >> 4 & 0x0f0f0f0f;
                            int sum = product(odd, highs[1], product(even, highs[0], 0));
                            sum = product(odd, lows[1], product(even, lows[0], sum << 7));
                            acc[r][c] += float(sum) * (scale * shared_by[a][c].x) + total * shared_by[a][c].y;
                        }
#else
                        uvec4 highs = high[(r * CHUNK + load * PER - first) / 16];
                        uvec4 lows = low[(r * CHUNK + load * PER - first) / 16];
                        [[unroll]] for (uint c = 0; c < 4; c++) {
                            int sum = product(q[a][c], lows, product(q[a][c], highs, 0) << 7);
                            acc[r][c] += float(sum) * (scale * shared_by[a][c]);
                        }
#endif
                    }
                }
            }
            at += AHEAD * turn;
            if (at >= end) {
                break;
            }
            fetch(q, shared_by, line, groups, at, turn);
        }
    }

    [[unroll]] for (uint r = 0; r < ROWS; r++) {
        acc[r] = subgroupAdd(acc[r]);
#if HAS_GAIN
        squares[r] = subgroupAdd(squares[r]);
        if (gl_SubgroupInvocationID == 0) {
            square_parts[r * SUBGROUPS + gl_SubgroupID] = squares[r];
        }
#endif
#if SPLIT > 1
        if (gl_SubgroupInvocationID == 0) {
            column_parts[r * SUBGROUPS + gl_SubgroupID] = acc[r];
        }
#endif
    }
#if HAS_GAIN || SPLIT > 1
    barrier();
#endif
    if (mine < ROWS && share == 0) {
#if SPLIT > 1
        vec4 sum = vec4(0.0);
        [[unroll]] for (uint other = 0; other < SPLIT; other++) {
            sum += column_parts[mine * SUBGROUPS + gl_SubgroupID + other];
        }
#else
        vec4 sum = acc[0];
        [[unroll]] for (uint r = 1; r < ROWS; r++) {
            sum = mine == r ? acc[r] : sum;
        }
#endif
#if HAS_GAIN
        float square_sum = 0.0;
        [[unroll]] for (uint subgroup = 0; subgroup < SUBGROUPS; subgroup++) {
            square_sum += square_parts[mine * SUBGROUPS + subgroup];
        }
        sum *= rms_scale(square_sum);
#endif
        finish(first_row + mine, column, sum, before);
    }
}
