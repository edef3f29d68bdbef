// What the variants of `cached_attention` and `append_attention` share: bindings, and which places of the cache a row sees.
// With APPENDS they are those of the latter: the joint projection stands where queries do, and the pass itself writes the
// newest place of the cache.
#include "relay.glsl"
#if APPENDS
layout(binding = BIND_QKV) RELAYED readonly buffer In0 { A qkv[]; };
#elif defined(VEC_A)
layout(binding = BIND_Q) RELAYED readonly buffer In0 { uvec4 q[]; };
#else
layout(binding = BIND_Q) RELAYED readonly buffer In0 { A q[]; };
#endif
layout(binding = BIND_POSITIONS) readonly buffer In1 { uint positions[]; };
layout(binding = BIND_SLOTS) readonly buffer In2 { uint slots[]; };
#if C_INT8
#include "block_formats.glsl"
#ifdef VEC_C
// Eight elements in one load.
layout(binding = BIND_K_CACHE) RELAYED readonly buffer In3 { uvec2 k_cache[]; };
layout(binding = BIND_V_CACHE) RELAYED readonly buffer In4 { uvec2 v_cache[]; };
#else
layout(binding = BIND_K_CACHE) RELAYED readonly buffer In3 { uint k_cache[]; };
layout(binding = BIND_V_CACHE) RELAYED readonly buffer In4 { uint v_cache[]; };
#endif
layout(binding = BIND_K_CACHE) RELAYED readonly buffer In3Shared { float16_t k_scale[]; };
layout(binding = BIND_V_CACHE) RELAYED readonly buffer In4Shared { float16_t v_scale[]; };
#elif APPENDS
// Eight elements in one 16-byte load, or in two. No other pass of a chain writes them, and this one no place that it reads.
layout(binding = BIND_K_CACHE) RELAY_EARLY buffer State0 { uvec4 k_cache[]; };
layout(binding = BIND_V_CACHE) RELAY_EARLY buffer State1 { uvec4 v_cache[]; };
#elif defined(VEC_C)
// Eight elements in one 16-byte load, or in two.
layout(binding = BIND_K_CACHE) RELAYED readonly buffer In3 { uvec4 k_cache[]; };
layout(binding = BIND_V_CACHE) RELAYED readonly buffer In4 { uvec4 v_cache[]; };
#else
layout(binding = BIND_K_CACHE) RELAYED readonly buffer In3 { C k_cache[]; };
layout(binding = BIND_V_CACHE) RELAYED readonly buffer In4 { C v_cache[]; };
#endif
// By single elements, unless the includer says by what.
#ifndef Y_BY
#define Y_BY A
#endif
layout(binding = BIND_Y) RELAYED writeonly buffer Out { Y_BY y[]; };
// `rows` of each sequence; `places` of the cache in all.
#if APPENDS
layout(push_constant) uniform Push { uint rows, ctx, splits, places; float scale, softcap, theta, rope_scale, eps; RELAY_PUSH };
#else
layout(push_constant) uniform Push { uint rows, ctx, splits, places; float scale, softcap; RELAY_PUSH };
#endif

const uint D = OPT_HEAD_DIM;
const uint NONE = 0xffffffffu;
const float LOG2_E = 1.4426950408889634;

#if C_INT8
float k_scale_of(uint element) {
    return float(k_scale[int8_group(places * D, element, C_GROUP)]);
}

float v_scale_of(uint element) {
    return float(v_scale[int8_group(places * D, element, C_GROUP)]);
}
#endif

// First place that a row at `position` sees, and the one after its last; empty for a dead row.
uvec2 seen(uint position) {
    if (position == NONE) {
        return uvec2(0);
    }
    uint end = min(position + 1, ctx);
#if OPT_WINDOW > 0
    uint start = position + 1 > OPT_WINDOW ? position + 1 - OPT_WINDOW : 0;
#else
    uint start = 0;
#endif
    return uvec2(min(start, end), end);
}

// The exponent of 2 that a product of query and key stands for.
float bend(float product) {
    float score = product * scale;
// A variant that defines SOFTCAP has this in its program only where it is wanted.
#if !defined(SOFTCAP) || SOFTCAP
    if (softcap > 0.0) {
        score = softcap * tanh(score / softcap);
    }
#endif
    return score * LOG2_E;
}
