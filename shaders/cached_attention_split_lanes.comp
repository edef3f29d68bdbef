// Flash-Decoding (Dao et al. 2023) as in cached_attention_split.comp, on matrix units whose fragments are filled from
// registers (include/fragments.glsl): keys and values go from the cache straight to the operands, all of those that a
// subgroup has under way at once.
//
// The GROUP query heads that share a key head, eight at most, are the first rows of scores, places the columns. Scores lie
// as the right operand of the second product, whose output has heads as columns: no register of it is spare. A subgroup
// takes PLACES places at a time with an online softmax (Milakov and Gimelshein 2018) of its own; subgroups meet once, at
// the end.
//
// With APPENDS it is `append_attention`: the last subgroup makes the queries, and the key and value of the newest place, of
// the joint projection. Every other place was there before, so that the first ones are asked for before the wait.
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_KHR_cooperative_matrix : require
#extension GL_KHR_memory_scope_semantics : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_shuffle : require
#if APPENDS
#extension GL_KHR_shader_subgroup_arithmetic : require
#endif
#extension GL_EXT_shader_explicit_arithmetic_types_float16 : require
#include "include/storage.glsl"

// Fragments of places that a subgroup has at once.
layout(constant_id = 2) const uint DEPTH = 1;
layout(constant_id = 3) const uint SHARE = 256;
layout(constant_id = 4) const uint ALONE = 256;
layout(local_size_x = LOCAL_X) in;
#define Y_BY f16vec4
#if APPENDS
#define RELAY_LOOKER (LOCAL_X - 32)
#endif
#include "include/cached.glsl"
#if APPENDS
#include "include/append.glsl"
layout(binding = BIND_QKV) RELAYED readonly buffer In0Pairs { uint qkv_pairs[]; };
#endif

void put(uint at, vec4 v) {
    y[at / 4] = f16vec4(v);
}

#include "include/join.glsl"
#include "include/fragments.glsl"

// Eight columns.
#define RIGHT_HALF coopmat<float16_t, gl_ScopeSubgroup, 16, 8, gl_MatrixUseB>
#define SUM_HALF coopmat<float, gl_ScopeSubgroup, 16, 8, gl_MatrixUseAccumulator>

const uint D8 = D / 8;
const uint SUBGROUPS = LOCAL_X / 32;
const uint PLACES = 16 * DEPTH;
// A head's output of a subgroup in shared memory; heads and their neighbours in a fragment meet different banks.
const uint LINE = D / 4 + 2;

shared uvec4 queries[GROUP * D8];
shared vec4 outputs[SUBGROUPS * GROUP * LINE];
// (maximum, sum) of each subgroup and head.
shared vec2 subgroup_sums[SUBGROUPS * GROUP];
#if APPENDS
// Key and value of the newest place.
shared uvec4 newest[2 * D8];
#else
// Slot and position of the row.
shared uvec2 place_of_row;
#endif

uint live_parts(uvec2 range) {
    uint length = range.y - range.x;
    return length <= ALONE ? min(length, 1) : min(splits, (length + SHARE - 1) / SHARE);
}

// Keys and values of the places from k0 on, all at once. Past the end the last place stands in, with a weight of zero.
#define ASK(k0) \
    [[unroll]] for (uint n = 0; n < DEPTH; n++) { \
        [[unroll]] for (uint j = 0; j < 2; j++) { \
            uint place = base + min((k0) + 16 * n + lane_column(g) + 2 * j, last); \
            [[unroll]] for (uint b = 0; b < D / 32; b++) { \
                k[n][j][b] = k_cache[place * D8 + 4 * b + c]; \
            } \
        } \
    } \
    [[unroll]] for (uint n = 0; n < DEPTH; n++) { \
        [[unroll]] for (uint j = 0; j < 4; j++) { \
            uint place = base + min((k0) + 16 * n + 4 * c + j, last); \
            [[unroll]] for (uint u = 0; u < D / 64; u++) { \
                v[n][u][j] = v_cache[place * D8 + 8 * u + g]; \
            } \
        } \
    }

#if APPENDS
// One subgroup brings the heads: an invocation has every 32nd pair of each.
void bring_heads(uint row, uint kv_head, uint position) {
    const uint PAIRS = D / 64;
    uint lane = gl_SubgroupInvocationID;
    vec2 turns[PAIRS];
    vec2 query_weights[PAIRS];
    vec2 key_weights[PAIRS];
    [[unroll]] for (uint i = 0; i < PAIRS; i++) {
        uint column = 2 * (32 * i + lane);
        turns[i] = turn_of(position, column);
        query_weights[i] = norm_weight(0, column);
        key_weights[i] = norm_weight(KEY, column);
    }
    RELAY_LOOK();
    uint bits[FRESH][PAIRS];
    [[unroll]] for (uint head = 0; head < FRESH; head++) {
        [[unroll]] for (uint i = 0; i < PAIRS; i++) {
            bits[head][i] = qkv_pairs[fresh_at(row, kv_head, head) / 2 + 32 * i + lane];
        }
    }
    [[unroll]] for (uint head = 0; head < FRESH; head++) {
        vec2 pairs[PAIRS];
        float squares = 0.0;
        [[unroll]] for (uint i = 0; i < PAIRS; i++) {
            pairs[i] = unpackHalf2x16(bits[head][i]);
            squares += dot(pairs[i], pairs[i]);
        }
        float norm = is_normed(head) ? inversesqrt(subgroupAdd(squares) / float(D) + eps) : 1.0;
        [[unroll]] for (uint i = 0; i < PAIRS; i++) {
            uint at = 32 * i + lane;
            if (is_normed(head)) {
                pairs[i] *= norm * (head < KEY ? query_weights[i] : key_weights[i]);
            }
            if (head <= KEY) {
                pairs[i] = rotated(pairs[i], turns[i]);
            }
            uint both = head < VALUE ? packHalf2x16(pairs[i]) : bits[head][i];
            if (head < KEY) {
                queries[head * D8 + at / 4][at % 4] = both;
            } else {
                newest[(head - KEY) * D8 + at / 4][at % 4] = both;
            }
        }
    }
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
    uint g = gl_SubgroupInvocationID / 4;
    uint c = gl_SubgroupInvocationID % 4;
    uint out_base = (row * OPT_HEADS + kv_head * GROUP) * D;

    uvec4 k[DEPTH][2][D / 32];
    uvec4 v[DEPTH][D / 64][4];
#if APPENDS
    uint position = positions[row];
    uint slot = slots[row];
    uvec2 range = seen(position);
#else
    // Asked for together: where the row is, and its queries. Through shared memory, as NVIDIA's compiler puts loads that only
    // what is behind the barrier uses behind it (shaders/README.md, "Where compilers put loads").
    if (t == LOCAL_X - 1) {
        place_of_row = uvec2(slots[row / rows], positions[row]);
    }
#if RELAY
    // No pass of a chain writes these. Workgroups that have no part need not wait then; the first of a row always does.
    barrier();
    if (number > 0 && number >= live_parts(seen(place_of_row.y))) {
        RELAY_DONE();
        return;
    }
    RELAY_WAIT();
#endif
    for (uint e = t; e < GROUP * D8; e += LOCAL_X) {
        queries[e] = q[out_base / 8 + e];
    }
    barrier();
    uint slot = place_of_row.x;
    uvec2 range = seen(place_of_row.y);
#endif

    // Every workgroup of the row comes to the same parts, of nearly the same length.
    uint length = range.y - range.x;
    uint live = live_parts(range);
#if APPENDS
    // Workgroups that have no part need not wait; the first of a row always does.
    if (number > 0 && number >= live) {
        RELAY_DONE();
        return;
    }
    live = max(live, 1);
#else
    if (number >= live) {
        if (length == 0 && number == 0) {
            for (uint e = t; e < GROUP * D / 4; e += LOCAL_X) {
                put(out_base + 4 * e, vec4(0.0));
            }
        }
        RELAY_DONE();
        return;
    }
#endif
    uint share = ((length + live - 1) / live + 15) / 16 * 16;
    // Rounded lengths may leave nothing to the last one.
    uint from = min(range.x + number * share, range.y);
    uint to = min(from + share, range.y);
    uint base = (slot * OPT_KV_HEADS + kv_head) * ctx;
#if APPENDS
    uint last = max(to, 1) - 1;
    uint first = from + gl_SubgroupID * PLACES;
    // The one that looks asks for nothing before it, as its look would wait for that, too.
    if (gl_SubgroupID == SUBGROUPS - 1) {
        bring_heads(row, kv_head, position);
    }
    ASK(first)
    RELAY_MEET();
    if (length == 0) {
        for (uint e = t; e < GROUP * D / 4; e += LOCAL_X) {
            put(out_base + 4 * e, vec4(0.0));
        }
        RELAY_DONE();
        return;
    }
    if (from <= position && position < to && t < 2 * D8) {
        uint at = (base + position) * D8 + t % D8;
        if (t < D8) {
            k_cache[at] = newest[t];
        } else {
            v_cache[at] = newest[t];
        }
    }
#else
    uint last = to - 1;
    uint first = from + gl_SubgroupID * PLACES;
#endif

    // Turned over: rows are dimensions, columns heads.
    SUM_HALF o[D / 16];
    [[unroll]] for (uint i = 0; i < D / 16; i++) {
        o[i] = SUM_HALF(0.0);
    }
    // Of head g: the largest score, and this invocation's part of the sum of powers.
    float peak = LOWEST;
    float total = 0.0;
    [[dont_unroll]] for (uint k0 = first; k0 < to; k0 += SUBGROUPS * PLACES) {
        // The next ones only when these are used: with those in registers too, fewer subgroups would fit beside each other.
#if APPENDS
        if (k0 != first) {
            ASK(k0)
        }
        if (k0 <= position && position < k0 + PLACES) {
            [[unroll]] for (uint n = 0; n < DEPTH; n++) {
                [[unroll]] for (uint j = 0; j < 2; j++) {
                    if (k0 + 16 * n + lane_column(g) + 2 * j == position) {
                        [[unroll]] for (uint b = 0; b < D / 32; b++) {
                            k[n][j][b] = newest[4 * b + c];
                        }
                    }
                }
                [[unroll]] for (uint j = 0; j < 4; j++) {
                    if (k0 + 16 * n + 4 * c + j == position) {
                        [[unroll]] for (uint u = 0; u < D / 64; u++) {
                            v[n][u][j] = newest[D8 + 8 * u + g];
                        }
                    }
                }
            }
        }
#else
        ASK(k0)
#endif
        // Element e of s[n] belongs to head g + 8 (e / 4), of which there are eight at most, and to place 16 n + 4 c + e % 4.
        SUM_FRAGMENT s[DEPTH];
        [[unroll]] for (uint n = 0; n < DEPTH; n++) {
            s[n] = SUM_FRAGMENT(0.0);
        }
        [[unroll]] for (uint b = 0; b < D / 32; b++) {
            uvec4 eight = g < GROUP ? queries[g * D8 + 4 * b + c] : uvec4(0);
            [[unroll]] for (uint f = 0; f < 2; f++) {
                LEFT_FRAGMENT heads;
                uvec4 pairs = uvec4(f == 0 ? eight.xy : eight.zw, 0, 0);
                FILL(heads, pairs)
                [[unroll]] for (uint n = 0; n < DEPTH; n++) {
                    pairs = f == 0 ? uvec4(k[n][0][b].xy, k[n][1][b].xy) : uvec4(k[n][0][b].zw, k[n][1][b].zw);
                    RIGHT_FRAGMENT keys;
                    FILL(keys, pairs)
                    s[n] = coopMatMulAdd(heads, keys, s[n]);
                }
            }
        }
        float higher = peak;
        [[unroll]] for (uint n = 0; n < DEPTH; n++) {
            [[unroll]] for (uint e = 0; e < 4; e++) {
                s[n][e] = k0 + 16 * n + 4 * c + e < to ? bend(s[n][e]) : 2.0 * LOWEST;
                higher = max(higher, s[n][e]);
            }
        }
        higher = max(higher, subgroupShuffleXor(higher, 1));
        higher = max(higher, subgroupShuffleXor(higher, 2));
        float decay = exp2(peak - higher);
        peak = higher;
        total *= decay;
        vec2 decays = vec2(subgroupShuffle(decay, 8 * c), subgroupShuffle(decay, 8 * c + 4));
        [[unroll]] for (uint i = 0; i < D / 16; i++) {
            [[unroll]] for (uint e = 0; e < 4; e++) {
                o[i][e] = o[i][e] * decays[e % 2];
            }
        }
        [[unroll]] for (uint n = 0; n < DEPTH; n++) {
            // Scores lie as the right operand does.
            RIGHT_HALF weights;
            [[unroll]] for (uint e = 0; e < 4; e++) {
                float p = exp2(s[n][e] - higher);
                total += p;
                weights[e] = float16_t(p);
            }
            // Row g of fragment 4 u + w is element 2 w of vector 8 u + g, row g + 8 the one after it.
            [[unroll]] for (uint u = 0; u < D / 64; u++) {
                [[unroll]] for (uint w = 0; w < 4; w++) {
                    uvec4 pairs = uvec4(low_halves(v[n][u][0][w], v[n][u][1][w]), low_halves(v[n][u][2][w], v[n][u][3][w]),
                                        high_halves(v[n][u][0][w], v[n][u][1][w]), high_halves(v[n][u][2][w], v[n][u][3][w]));
                    LEFT_FRAGMENT values;
                    FILL(values, pairs)
                    o[4 * u + w] = coopMatMulAdd(values, weights, o[4 * u + w]);
                }
            }
        }
    }
    total += subgroupShuffleXor(total, 1);
    total += subgroupShuffleXor(total, 2);
    if (g < GROUP && c == 0) {
        subgroup_sums[gl_SubgroupID * GROUP + g] = vec2(peak, total);
    }
    [[unroll]] for (uint e = 0; e < 2; e++) {
        uint h = 2 * c + e;
        if (h < GROUP) {
            [[unroll]] for (uint u = 0; u < D / 64; u++) {
                uint at = (gl_SubgroupID * GROUP + h) * LINE + 2 * (8 * u + g);
                outputs[at] = vec4(o[4 * u][e], o[4 * u][e + 2], o[4 * u + 1][e], o[4 * u + 1][e + 2]);
                outputs[at + 1] = vec4(o[4 * u + 2][e], o[4 * u + 2][e + 2], o[4 * u + 3][e], o[4 * u + 3][e + 2]);
            }
        }
    }
    barrier();

    // Subgroups into a part.
    uint worked = min(SUBGROUPS, (to - from + PLACES - 1) / PLACES);
    uint part = part_of(row, kv_head, number);
    for (uint e = t; e < GROUP * D / 4; e += LOCAL_X) {
        uint h = e / (D / 4);
        float highest = LOWEST;
        for (uint other = 0; other < worked; other++) {
            highest = max(highest, subgroup_sums[other * GROUP + h].x);
        }
        vec4 value = vec4(0.0);
        float sum = 0.0;
        for (uint other = 0; other < worked; other++) {
            vec2 theirs = subgroup_sums[other * GROUP + h];
            float weight = exp2(theirs.x - highest);
            sum += weight * theirs.y;
            value += weight * outputs[(other * GROUP + h) * LINE + e % (D / 4)];
        }
        if (live == 1) {
            put(out_base + 4 * e, value / sum);
        } else {
            parts[part * (D / 4) + e] = value;
            if (e % (D / 4) == 0) {
                sums[part + h] = vec2(highest, sum);
            }
        }
    }
    if (live > 1) {
        join(row, kv_head, live);
    }
    RELAY_DONE();
}
