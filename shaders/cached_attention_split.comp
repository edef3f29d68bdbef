// Flash-Decoding (Dao et al. 2023): the cached length of one row is split over workgroups, each of which keeps an
// online softmax (Milakov and Gimelshein 2018) of its part, for all GROUP query heads that share a key head, so that
// every key and value is loaded once. The last workgroup to arrive joins the parts.
//
// LANES invocations share a place, eight dimensions each; TEAMS places are worked on side by side, and each team walks
// DEPTH of them at once, so that DEPTH loads of keys and of values are in flight. Products of a team meet in shared
// memory. Every team has a maximum, a sum and an output of its own until the end.
#version 460
#extension GL_GOOGLE_include_directive : require
#if A_F16 || C_F16
#extension GL_EXT_shader_16bit_storage : require
#endif
#include "include/storage.glsl"

layout(constant_id = 0) const uint WIDTH = 128;
layout(local_size_x = LOCAL_X) in;
#include "include/cached.glsl"
// One more for each row, split and head: outputs relative to the part's maximum, and (maximum, sum).
layout(binding = BIND_PARTS) coherent buffer Work0 { vec4 parts[]; };
layout(binding = BIND_SUMS) coherent buffer Work1 { vec2 sums[]; };
layout(binding = BIND_COUNTERS) coherent buffer Work2 { uint counters[]; };
#include "include/arrive.glsl"

const uint LANES = D / 8;
const uint TEAMS = LOCAL_X / LANES;
const uint DEPTH = 4;
const uint TILE = TEAMS * DEPTH;
const uint PAIRS = TILE * GROUP;
const float LOWEST = -1.0e30;

// Products of a lane, then scores: [place of the tile][head][lane].
shared float products[max(PAIRS * (LANES + 1), TEAMS * D)];
shared float scores[PAIRS];
shared vec2 team_sums[TEAMS * GROUP];

// Eight elements of a cache from element `at`.
#if VEC_C == 1
#define LOAD(cache, at, into) { \
    uvec4 bits = cache[(at) / 8]; \
    into[0] = vec4(unpackHalf2x16(bits.x), unpackHalf2x16(bits.y)); \
    into[1] = vec4(unpackHalf2x16(bits.z), unpackHalf2x16(bits.w)); \
}
#else
#define LOAD(cache, at, into) { \
    into[0] = uintBitsToFloat(cache[(at) / 4]); \
    into[1] = uintBitsToFloat(cache[(at) / 4 + 1]); \
}
#endif

void main() {
    uint t = gl_LocalInvocationID.x;
    uint kv_head = gl_WorkGroupID.y;
    uint row = gl_WorkGroupID.z;
    uint team = t / LANES;
    uint lane = t % LANES;
    bool works = team < TEAMS;
    uint out_base = (row * OPT_HEADS + kv_head * GROUP) * D;

    // Every workgroup of the row comes to the same parts.
    uvec2 range = seen(positions[row]);
    uint length = range.y - range.x;
    uint share = (length + splits - 1) / splits;
    share = max((share + TILE - 1) / TILE, 1) * TILE;
    uint live = (length + share - 1) / share;
    if (gl_WorkGroupID.x >= live) {
        if (length == 0 && gl_WorkGroupID.x == 0) {
            for (uint e = t; e < GROUP * D; e += LOCAL_X) {
                y[out_base + e] = A(0.0);
            }
        }
        return;
    }
    uint from = range.x + gl_WorkGroupID.x * share;
    uint to = min(from + share, range.y);
    uint base = (slots[row / rows] * OPT_KV_HEADS + kv_head) * ctx;

    vec4 my_q[GROUP][2];
    vec4 o[GROUP][2];
    float peak[GROUP];
    float total[GROUP];
    [[unroll]] for (uint h = 0; h < GROUP; h++) {
        [[unroll]] for (uint e = 0; e < 8; e++) {
            my_q[h][e / 4][e % 4] = float(q[out_base + h * D + lane * 8 + e]);
        }
        o[h][0] = vec4(0.0);
        o[h][1] = vec4(0.0);
        peak[h] = LOWEST;
        total[h] = 0.0;
    }

    for (uint k0 = from; k0 < to; k0 += TILE) {
        vec4 v[DEPTH][2];
        if (works) {
            vec4 k[DEPTH][2];
            // Past the end the last place stands in.
            [[unroll]] for (uint u = 0; u < DEPTH; u++) {
                uint at = (base + min(k0 + u * TEAMS + team, to - 1)) * D + lane * 8;
                LOAD(k_cache, at, k[u])
            }
            [[unroll]] for (uint u = 0; u < DEPTH; u++) {
                uint at = (base + min(k0 + u * TEAMS + team, to - 1)) * D + lane * 8;
                LOAD(v_cache, at, v[u])
            }
            [[unroll]] for (uint u = 0; u < DEPTH; u++) {
                [[unroll]] for (uint h = 0; h < GROUP; h++) {
                    uint pair = (u * TEAMS + team) * GROUP + h;
                    products[pair * (LANES + 1) + lane] = dot(my_q[h][0], k[u][0]) + dot(my_q[h][1], k[u][1]);
                }
            }
        }
        barrier();
        for (uint pair = t; pair < PAIRS; pair += LOCAL_X) {
            float product = 0.0;
            [[unroll]] for (uint l = 0; l < LANES; l++) {
                product += products[pair * (LANES + 1) + l];
            }
            scores[pair] = k0 + pair / GROUP < to ? bend(product) : 2.0 * LOWEST;
        }
        barrier();
        if (works) {
            [[unroll]] for (uint h = 0; h < GROUP; h++) {
                float s[DEPTH];
                float higher = peak[h];
                [[unroll]] for (uint u = 0; u < DEPTH; u++) {
                    s[u] = scores[(u * TEAMS + team) * GROUP + h];
                    higher = max(higher, s[u]);
                }
                float decay = exp2(peak[h] - higher);
                peak[h] = higher;
                total[h] *= decay;
                o[h][0] *= decay;
                o[h][1] *= decay;
                [[unroll]] for (uint u = 0; u < DEPTH; u++) {
                    float p = exp2(s[u] - higher);
                    total[h] += p;
                    o[h][0] += p * v[u][0];
                    o[h][1] += p * v[u][1];
                }
            }
        }
    }

    // Teams into one part.
    if (works && lane == 0) {
        [[unroll]] for (uint h = 0; h < GROUP; h++) {
            team_sums[h * TEAMS + team] = vec2(peak[h], total[h]);
        }
    }
    uint part = (row * splits + gl_WorkGroupID.x) * OPT_HEADS + kv_head * GROUP;
    [[unroll]] for (uint h = 0; h < GROUP; h++) {
        barrier();
        if (works) {
            [[unroll]] for (uint e = 0; e < 8; e++) {
                products[team * D + lane * 8 + e] = o[h][e / 4][e % 4];
            }
        }
        barrier();
        float highest = LOWEST;
        for (uint other = 0; other < TEAMS; other++) {
            highest = max(highest, team_sums[h * TEAMS + other].x);
        }
        float sum = 0.0;
        for (uint other = 0; other < TEAMS; other++) {
            vec2 theirs = team_sums[h * TEAMS + other];
            sum += exp2(theirs.x - highest) * theirs.y;
        }
        for (uint d4 = t; d4 < D / 4; d4 += LOCAL_X) {
            vec4 value = vec4(0.0);
            for (uint other = 0; other < TEAMS; other++) {
                float weight = exp2(team_sums[h * TEAMS + other].x - highest);
                [[unroll]] for (uint e = 0; e < 4; e++) {
                    value[e] += weight * products[other * D + 4 * d4 + e];
                }
            }
            if (live == 1) {
                [[unroll]] for (uint e = 0; e < 4; e++) {
                    y[out_base + h * D + 4 * d4 + e] = A(value[e] / sum);
                }
            } else {
                parts[(part + h) * (D / 4) + d4] = value;
            }
        }
        if (live > 1 && t == 0) {
            sums[part + h] = vec2(highest, sum);
        }
    }
    if (live == 1 || !last_to_arrive(row * OPT_KV_HEADS + kv_head, live)) {
        return;
    }

    // Parts into the row, four columns an invocation.
    for (uint e = t; e < GROUP * D / 4; e += LOCAL_X) {
        uint head = kv_head * GROUP + e / (D / 4);
        uint first = row * splits * OPT_HEADS + head;
        float highest = LOWEST;
        for (uint s = 0; s < live; s++) {
            highest = max(highest, sums[first + s * OPT_HEADS].x);
        }
        vec4 value = vec4(0.0);
        float sum = 0.0;
        for (uint s = 0; s < live; s++) {
            vec2 theirs = sums[first + s * OPT_HEADS];
            float weight = exp2(theirs.x - highest);
            sum += weight * theirs.y;
            value += weight * parts[(first + s * OPT_HEADS) * (D / 4) + e % (D / 4)];
        }
        [[unroll]] for (uint c = 0; c < 4; c++) {
            y[out_base + 4 * e + c] = A(value[c] / sum);
        }
    }
}
