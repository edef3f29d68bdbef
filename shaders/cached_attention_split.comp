// Flash-Decoding (Dao et al. 2023): the cached length of one row is split over workgroups, each of which keeps an
// online softmax (Milakov and Gimelshein 2018) of its part, for all GROUP query heads that share a key head, so that
// every key and value is loaded once. The last workgroup to arrive joins the parts.
//
// LANES invocations share a place, eight dimensions each; TEAMS places are worked on side by side, and each team walks
// DEPTH of them at once; the next keys are on their way while these are worked on. Products of a team meet in shared
// memory. Every team has a maximum, a sum and an output of its own until the end.
//
// With APPENDS it is `append_attention`: the workgroup first makes its queries, and the key and value of the newest place, of
// the joint projection.
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
#if APPENDS
#include "include/append.glsl"
#endif

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

#if APPENDS
shared float fresh[FRESH * D];
// Cosine and sine for each pair of a head.
shared vec2 turns[D / 2];
#if HAS_Q_NORM || HAS_K_NORM
// Of each head and eight of its elements the sum of squares.
shared float squares[FRESH * LANES];
#endif

// The heads of the workgroup into shared memory.
void bring_heads(uint row, uint kv_head, uint position) {
    uint t = gl_LocalInvocationID.x;
    for (uint e = t; e < FRESH * D; e += LOCAL_X) {
        fresh[e] = float(qkv[fresh_at(row, kv_head, e / D) + e % D]);
    }
    for (uint e = t; e < D / 2; e += LOCAL_X) {
        turns[e] = turn_of(position, 2 * e);
    }
    barrier();
#if HAS_Q_NORM || HAS_K_NORM
    for (uint e = t; e < FRESH * LANES; e += LOCAL_X) {
        float sum = 0.0;
        for (uint i = 0; i < 8; i++) {
            sum += fresh[8 * e + i] * fresh[8 * e + i];
        }
        squares[e] = sum;
    }
    barrier();
#endif
    for (uint e = t; e < VALUE * D / 2; e += LOCAL_X) {
        uint head = 2 * e / D;
        vec2 pair = vec2(fresh[2 * e], fresh[2 * e + 1]);
#if HAS_Q_NORM || HAS_K_NORM
        if (is_normed(head)) {
            float sum = 0.0;
            for (uint i = 0; i < LANES; i++) {
                sum += squares[head * LANES + i];
            }
            pair *= inversesqrt(sum / float(D) + eps) * norm_weight(head, 2 * e % D);
        }
#endif
        pair = rotated(pair, turns[e % (D / 2)]);
        fresh[2 * e] = pair.x;
        fresh[2 * e + 1] = pair.y;
    }
    barrier();
}

vec4 fresh_four(uint head, uint at) {
    at += head * D;
    return vec4(fresh[at], fresh[at + 1], fresh[at + 2], fresh[at + 3]);
}

// Eight elements of a head as the cache has them.
EIGHT_C fresh_eight(uint head, uint lane) {
    vec4 low = fresh_four(head, 8 * lane);
    vec4 high = fresh_four(head, 8 * lane + 4);
#if VEC_C == 1
    return EIGHT_C(uvec4(packHalf2x16(low.xy), packHalf2x16(low.zw), packHalf2x16(high.xy), packHalf2x16(high.zw)));
#else
    return EIGHT_C(floatBitsToUint(low), floatBitsToUint(high));
#endif
}
#endif

void main() {
    uint t = gl_LocalInvocationID.x;
#if APPENDS
    uint kv_head = gl_WorkGroupID.x;
    uint row = gl_WorkGroupID.y;
    uint number = gl_WorkGroupID.z;
#else
    uint kv_head = gl_WorkGroupID.y;
    uint row = gl_WorkGroupID.z;
    uint number = gl_WorkGroupID.x;
#endif
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
    if (number >= max(live, 1)) {
        RELAY_DONE();
        return;
    }
    RELAY_WAIT();
    if (number >= live) {
        if (length == 0 && number == 0) {
            for (uint e = t; e < GROUP * D; e += LOCAL_X) {
                y[out_base + e] = A(0.0);
            }
        }
        RELAY_DONE();
        return;
    }
    uint from = range.x + number * share;
    uint to = min(from + share, range.y);
#if APPENDS
    uint position = positions[row];
    bring_heads(row, kv_head, position);
#endif
    // Past the end the last place stands in; spare invocations follow the first team.
    uint mine = (works ? team : 0);
    uint base = (slot * OPT_KV_HEADS + kv_head) * ctx;
#define PLACE(k0, u) ((base + min((k0) + (u) * TEAMS + mine, to - 1)) * D + lane * 8)

#if APPENDS
    EIGHT_C new_key = fresh_eight(KEY, lane);
    EIGHT_C new_value = fresh_eight(VALUE, lane);
    if (position < to && t < LANES) {
        uint at = ((base + position) * D / 8 + lane) * VEC_C;
        [[unroll]] for (uint i = 0; i < VEC_C; i++) {
            k_cache[at + i] = new_key[i];
            v_cache[at + i] = new_value[i];
        }
    }
    // The newest place is on its way to the cache, and stands in place of what was loaded for it.
#define OR_FRESH(loaded, fresh, k0, u) \
    if (min((k0) + (u) * TEAMS + mine, to - 1) == position) { \
        loaded = fresh; \
    }
#else
#define OR_FRESH(loaded, fresh, k0, u)
#endif
#define GET_K(k0, u) \
    k[u] = LOAD_K(PLACE(k0, u)); \
    OR_FRESH(k[u], new_key, k0, u)
#define GET_V(k0, u) \
    v[u] = LOAD_V(PLACE(k0, u)); \
    OR_FRESH(v[u], new_value, k0, u)

    EIGHT_C k[DEPTH];
    EIGHT_C v[DEPTH];
    [[unroll]] for (uint u = 0; u < DEPTH; u++) {
        GET_K(from, u)
    }
    vec4 my_q[GROUP][2];
    [[unroll]] for (uint h = 0; h < GROUP; h++) {
#if APPENDS
        my_q[h][0] = fresh_four(h, lane * 8);
        my_q[h][1] = fresh_four(h, lane * 8 + 4);
#elif VEC_A == 1
        uvec4 bits = q[(out_base + h * D) / 8 + lane];
        my_q[h][0] = vec4(unpackHalf2x16(bits.x), unpackHalf2x16(bits.y));
        my_q[h][1] = vec4(unpackHalf2x16(bits.z), unpackHalf2x16(bits.w));
#else
        my_q[h][0] = uintBitsToFloat(q[(out_base + h * D) / 4 + 2 * lane]);
        my_q[h][1] = uintBitsToFloat(q[(out_base + h * D) / 4 + 2 * lane + 1]);
#endif
    }
    [[unroll]] for (uint u = 0; u < DEPTH; u++) {
        GET_V(from, u)
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
                GET_K(k0 + TILE, u)
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
                GET_V(k0 + TILE, u)
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
    uint part = part_of(row, kv_head, number);
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
