// Flash-Decoding (Dao et al. 2023): the cached length of one row is split over workgroups, each of which keeps an
// online softmax (Milakov and Gimelshein 2018) of its part, for all GROUP query heads that share a key head, so that
// every key and value is loaded once. The last workgroup to arrive joins the parts.
//
// LANES invocations share a place, eight dimensions each; TEAMS places are worked on side by side, and each team walks
// DEPTH of them at once; the next keys are on their way while these are worked on. Products of a team meet in shared
// memory. Every team has a maximum, a sum and an output of its own until the end.
#version 460
#extension GL_GOOGLE_include_directive : require
#if A_F16 || C_F16 || C_INT8
#extension GL_EXT_shader_16bit_storage : require
#endif
#include "include/storage.glsl"

layout(constant_id = 0) const uint WIDTH = 128;
layout(constant_id = 1) const uint SHARE = 128;
layout(local_size_x = LOCAL_X) in;
#include "include/cached.glsl"

void put(uint at, vec4 v) {
    [[unroll]] for (uint c = 0; c < 4; c++) {
        y[at + c] = A(v[c]);
    }
}

#include "include/join.glsl"

const uint LANES = D / 8;
const uint TEAMS = LOCAL_X / LANES;
const uint DEPTH = 4;
const uint TILE = TEAMS * DEPTH;
const uint PAIRS = TILE * GROUP;
const uint ROOM = TEAMS * max(DEPTH * GROUP * (LANES + 1), D);
// Heads whose outputs fit side by side into what the products took.
const uint AT_ONCE = min(GROUP, ROOM / (TEAMS * D));

// Products of lanes, [place of the tile][head][lane]; at the end outputs of teams.
shared float products[ROOM];
shared float scores[PAIRS];
shared vec2 team_sums[TEAMS * GROUP];
shared vec2 head_sums[GROUP];

// Eight elements as they are stored, and as numbers.
#define EIGHT_C uvec4[VEC_C]
#if C_INT8
// Two words and their scale.
#define LOAD_K(at) EIGHT_C(uvec4(k_cache[(at) / 8], floatBitsToUint(k_scale_of(at)), 0))
#define LOAD_V(at) EIGHT_C(uvec4(v_cache[(at) / 8], floatBitsToUint(v_scale_of(at)), 0))
#define LOW_C(v) (int8_values(v[0].x) * uintBitsToFloat(v[0].z))
#define HIGH_C(v) (int8_values(v[0].y) * uintBitsToFloat(v[0].z))
#elif VEC_C == 1
#define LOAD_K(at) EIGHT_C(k_cache[(at) / 8])
#define LOAD_V(at) EIGHT_C(v_cache[(at) / 8])
#define LOW_C(v) vec4(unpackHalf2x16(v[0].x), unpackHalf2x16(v[0].y))
#define HIGH_C(v) vec4(unpackHalf2x16(v[0].z), unpackHalf2x16(v[0].w))
#else
#define LOAD_K(at) EIGHT_C(k_cache[(at) / 4], k_cache[(at) / 4 + 1])
#define LOAD_V(at) EIGHT_C(v_cache[(at) / 4], v_cache[(at) / 4 + 1])
#define LOW_C(v) uintBitsToFloat(v[0])
#define HIGH_C(v) uintBitsToFloat(v[1])
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
    uint slot = slots[row / rows];
    uvec2 range = seen(positions[row]);
    uint length = range.y - range.x;
    uint share = max((length + splits - 1) / splits, SHARE);
    share = (share + TILE - 1) / TILE * TILE;
    uint live = (length + share - 1) / share;
    // No pass of a chain writes what says how many parts there are. Workgroups that have none need not wait; the first of a
    // row always does.
    if (gl_WorkGroupID.x >= max(live, 1)) {
        RELAY_DONE();
        return;
    }
    RELAY_WAIT();
    if (gl_WorkGroupID.x >= live) {
        if (length == 0 && gl_WorkGroupID.x == 0) {
            for (uint e = t; e < GROUP * D; e += LOCAL_X) {
                y[out_base + e] = A(0.0);
            }
        }
        RELAY_DONE();
        return;
    }
    uint from = range.x + gl_WorkGroupID.x * share;
    uint to = min(from + share, range.y);
    // Past the end the last place stands in; spare invocations follow the first team.
    uint mine = (works ? team : 0);
    uint base = (slot * OPT_KV_HEADS + kv_head) * ctx;
#define PLACE(k0, u) ((base + min((k0) + (u) * TEAMS + mine, to - 1)) * D + lane * 8)

    EIGHT_C k[DEPTH];
    EIGHT_C v[DEPTH];
    [[unroll]] for (uint u = 0; u < DEPTH; u++) {
        k[u] = LOAD_K(PLACE(from, u));
    }
    vec4 my_q[GROUP][2];
    [[unroll]] for (uint h = 0; h < GROUP; h++) {
        uint at = out_base + h * D + lane * 8;
#if VEC_A == 1
        uvec4 bits = q[at / 8];
        my_q[h][0] = vec4(unpackHalf2x16(bits.x), unpackHalf2x16(bits.y));
        my_q[h][1] = vec4(unpackHalf2x16(bits.z), unpackHalf2x16(bits.w));
#else
        my_q[h][0] = uintBitsToFloat(q[at / 4]);
        my_q[h][1] = uintBitsToFloat(q[at / 4 + 1]);
#endif
    }
    [[unroll]] for (uint u = 0; u < DEPTH; u++) {
        v[u] = LOAD_V(PLACE(from, u));
    }
    vec4 o[GROUP][2];
    float peak[GROUP];
    float total[GROUP];
    [[unroll]] for (uint h = 0; h < GROUP; h++) {
        o[h][0] = vec4(0.0);
        o[h][1] = vec4(0.0);
        peak[h] = LOWEST;
        total[h] = 0.0;
    }

    for (uint k0 = from; k0 < to; k0 += TILE) {
        if (works) {
            [[unroll]] for (uint u = 0; u < DEPTH; u++) {
                vec4 low = LOW_C(k[u]);
                vec4 high = HIGH_C(k[u]);
                [[unroll]] for (uint h = 0; h < GROUP; h++) {
                    uint pair = (u * TEAMS + team) * GROUP + h;
                    products[pair * (LANES + 1) + lane] = dot(my_q[h][0], low) + dot(my_q[h][1], high);
                }
            }
        }
        bool more = k0 + TILE < to;
        if (more) {
            [[unroll]] for (uint u = 0; u < DEPTH; u++) {
                k[u] = LOAD_K(PLACE(k0 + TILE, u));
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
            float p[GROUP][DEPTH];
            [[unroll]] for (uint h = 0; h < GROUP; h++) {
                float higher = peak[h];
                [[unroll]] for (uint u = 0; u < DEPTH; u++) {
                    p[h][u] = scores[(u * TEAMS + team) * GROUP + h];
                    higher = max(higher, p[h][u]);
                }
                float decay = exp2(peak[h] - higher);
                peak[h] = higher;
                total[h] *= decay;
                o[h][0] *= decay;
                o[h][1] *= decay;
                [[unroll]] for (uint u = 0; u < DEPTH; u++) {
                    p[h][u] = exp2(p[h][u] - higher);
                    total[h] += p[h][u];
                }
            }
            [[unroll]] for (uint u = 0; u < DEPTH; u++) {
                vec4 low = LOW_C(v[u]);
                vec4 high = HIGH_C(v[u]);
                [[unroll]] for (uint h = 0; h < GROUP; h++) {
                    o[h][0] += p[h][u] * low;
                    o[h][1] += p[h][u] * high;
                }
            }
        }
        if (more) {
            [[unroll]] for (uint u = 0; u < DEPTH; u++) {
                v[u] = LOAD_V(PLACE(k0 + TILE, u));
            }
        }
    }

    // Teams into one part.
    if (works && lane == 0) {
        [[unroll]] for (uint h = 0; h < GROUP; h++) {
            team_sums[h * TEAMS + team] = vec2(peak[h], total[h]);
        }
    }
    barrier();
    for (uint h = t; h < GROUP; h += LOCAL_X) {
        float highest = LOWEST;
        for (uint other = 0; other < TEAMS; other++) {
            highest = max(highest, team_sums[h * TEAMS + other].x);
        }
        float sum = 0.0;
        for (uint other = 0; other < TEAMS; other++) {
            vec2 theirs = team_sums[h * TEAMS + other];
            sum += exp2(theirs.x - highest) * theirs.y;
        }
        head_sums[h] = vec2(highest, sum);
    }
    uint part = part_of(row, kv_head, gl_WorkGroupID.x);
    [[unroll]] for (uint h0 = 0; h0 < GROUP; h0 += AT_ONCE) {
        barrier();
        if (works) {
            [[unroll]] for (uint h = h0; h < min(h0 + AT_ONCE, GROUP); h++) {
                float weight = exp2(peak[h] - head_sums[h].x);
                [[unroll]] for (uint e = 0; e < 8; e++) {
                    products[((h - h0) * TEAMS + team) * D + lane * 8 + e] = weight * o[h][e / 4][e % 4];
                }
            }
        }
        barrier();
        for (uint e = t; e < min(AT_ONCE, GROUP - h0) * D; e += LOCAL_X) {
            float value = 0.0;
            for (uint other = 0; other < TEAMS; other++) {
                value += products[(e / D * TEAMS + other) * D + e % D];
            }
            if (live == 1) {
                y[out_base + h0 * D + e] = A(value / head_sums[h0 + e / D].y);
            } else {
                parts[((part + h0) * D + e) / 4][e % 4] = value;
            }
        }
    }
    if (live > 1 && t < GROUP) {
        sums[part + t] = head_sums[t];
    }
    if (live > 1) {
        join(row, kv_head, live);
    }
    RELAY_DONE();
}
