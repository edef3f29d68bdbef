// One head of one row a workgroup, one adjacent pair an invocation: norm, rotation, and the place that it goes to. In an
// int8 cache neighbours share a scale, so there a head is finished in shared memory first.
#version 460
#extension GL_GOOGLE_include_directive : require
#if A_F16 || C_F16 || C_INT8
#extension GL_EXT_shader_16bit_storage : require
#endif
#include "include/storage.glsl"
#include "include/relay.glsl"

layout(constant_id = 0) const uint WIDTH = 64;
layout(local_size_x_id = 0) in;
#if HAS_Q_NORM || HAS_K_NORM
#include "include/reduce.glsl"
#endif

layout(binding = BIND_QKV) RELAYED readonly buffer In0 { A qkv[]; };
layout(binding = BIND_POSITIONS) RELAY_EARLY readonly buffer In1 { uint positions[]; };
layout(binding = BIND_SLOTS) RELAY_EARLY readonly buffer In2 { uint slots[]; };
#if C_INT8
#include "include/block_formats.glsl"
layout(binding = BIND_K_CACHE) RELAYED buffer State0 { uint k_cache[]; };
layout(binding = BIND_V_CACHE) RELAYED buffer State1 { uint v_cache[]; };
layout(binding = BIND_K_CACHE) RELAYED buffer State0Shared { float16_t k_scale[]; };
layout(binding = BIND_V_CACHE) RELAYED buffer State1Shared { float16_t v_scale[]; };
#else
layout(binding = BIND_K_CACHE) RELAYED buffer State0 { C k_cache[]; };
layout(binding = BIND_V_CACHE) RELAYED buffer State1 { C v_cache[]; };
#endif
layout(binding = BIND_Y) RELAYED writeonly buffer Out { A y[]; };
// `rows` of each sequence; `places` of the cache in all.
layout(push_constant) uniform Push { uint rows, ctx, places; float theta, rope_scale, eps; RELAY_PUSH };

const uint D = OPT_HEAD_DIM;
// Pairs of an invocation.
const uint PAIRS = (D / 2 + WIDTH - 1) / WIDTH;
const uint NONE = 0xffffffffu;
#include "include/heads.glsl"

#if C_INT8
shared float finished[D];

// The head in shared memory goes to its place, a word an invocation.
void store(uint place, bool is_k) {
    barrier();
    for (uint word = gl_LocalInvocationID.x; word < D / 4; word += WIDTH) {
        uint group = word / 8 * 32;
        float largest = 0.0;
        bool finite = true;
        for (uint e = 0; e < 32; e++) {
            float size = abs(finished[group + e]);
            finite = finite && size <= 3.4028234e38;
            largest = max(largest, size);
        }
        float scale = int8_scale(largest, finite);
        vec4 values;
        [[unroll]] for (uint e = 0; e < 4; e++) {
            values[e] = finished[4 * word + e];
        }
        uint bits = int8_word(values, scale);
        uint shared_at = int8_group(places * D, place + group, C_GROUP);
        if (is_k) {
            k_cache[place / 4 + word] = bits;
        } else {
            v_cache[place / 4 + word] = bits;
        }
        if (word % 8 == 0 && is_k) {
            k_scale[shared_at] = float16_t(scale);
        } else if (word % 8 == 0) {
            v_scale[shared_at] = float16_t(scale);
        }
    }
}
#endif

void main() {
    uint head = gl_WorkGroupID.x;
    uint row = gl_WorkGroupID.y;
    uint t = gl_LocalInvocationID.x;
    bool is_q = head < OPT_HEADS;
    bool is_k = !is_q && head < OPT_HEADS + OPT_KV_HEADS;
    uint from = (row * (OPT_HEADS + 2 * OPT_KV_HEADS) + head) * D;
    uint position = positions[row];

    uint kv_head = (head - OPT_HEADS) % OPT_KV_HEADS;
    uint place = ((slots[row / rows] * OPT_KV_HEADS + kv_head) * ctx + position) * D;

    // What does not depend on the pass before this one.
    vec2 weights[PAIRS];
    vec2 turns[PAIRS];
    for (uint i = 0; i < PAIRS; i++) {
        uint c = min(2 * (i * WIDTH + t), D - 2);
        weights[i] = vec2(1.0);
        turns[i] = vec2(1.0, 0.0);
#if HAS_Q_NORM
        if (is_q) {
            weights[i] = vec2(q_norm[c], q_norm[c + 1]);
        }
#endif
#if HAS_K_NORM
        if (is_k) {
            weights[i] = vec2(k_norm[c], k_norm[c + 1]);
        }
#endif
        if (is_q || is_k) {
            turns[i] = turn_of(position, c);
        }
    }
    RELAY_WAIT();
    vec2 pairs[PAIRS];
    for (uint i = 0; i < PAIRS; i++) {
        uint c = min(2 * (i * WIDTH + t), D - 2);
        pairs[i] = vec2(qkv[from + c], qkv[from + c + 1]);
    }
    float norm = 1.0;
#if HAS_Q_NORM || HAS_K_NORM
    if (is_q && HAS_Q_NORM == 1 || is_k && HAS_K_NORM == 1) {
        float squares = 0.0;
        for (uint i = 0; i < PAIRS; i++) {
            squares += i * WIDTH + t < D / 2 ? dot(pairs[i], pairs[i]) : 0.0;
        }
        norm = inversesqrt(workgroup_sum(squares) / float(D) + eps);
    }
#endif

    for (uint i = 0; i < PAIRS && i * WIDTH + t < D / 2; i++) {
        uint c = 2 * (i * WIDTH + t);
        vec2 pair = rotated(pairs[i] * norm * weights[i], turns[i]);
        if (is_q) {
            uint to = (row * OPT_HEADS + head) * D + c;
            y[to] = A(pair.x);
            y[to + 1] = A(pair.y);
        } else if (position < ctx) {
#if C_INT8
            finished[c] = pair.x;
            finished[c + 1] = pair.y;
#else
            if (is_k) {
                k_cache[place + c] = C(pair.x);
                k_cache[place + c + 1] = C(pair.y);
            } else {
                v_cache[place + c] = C(pair.x);
                v_cache[place + c + 1] = C(pair.y);
            }
#endif
        }
    }
#if C_INT8
    if (!is_q && position < ctx) {
        store(place, is_k);
    }
#endif
    RELAY_DONE();
}
