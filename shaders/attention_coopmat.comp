// `attention` for f16 on matrix units.
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_KHR_cooperative_matrix : require
#extension GL_KHR_memory_scope_semantics : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_arithmetic : require
#extension GL_KHR_shader_subgroup_shuffle : require
#extension GL_EXT_shader_explicit_arithmetic_types_float16 : require
#include "include/storage.glsl"

layout(local_size_x = LOCAL_X) in;

layout(binding = BIND_QKV) readonly buffer In0 { uvec4 qkv[]; };
layout(binding = BIND_SPANS) readonly buffer In1 { uvec2 spans[]; };
layout(binding = BIND_Y) writeonly buffer Out { uvec4 y[]; };
layout(push_constant) uniform Push { uint m; float scale; };

const uint D = OPT_HEAD_DIM;
const uint WIDTH = (OPT_HEADS + 2 * OPT_KV_HEADS) * D / 8;

// Of this workgroup: the first row and the length of its span, the first query of its tile within the span, and the
// first vector of its heads within a row.
uint first, len, q0, q_at, k_at, v_at;

uvec4 query(uint r, uint d8) {
    return q0 + r < len ? qkv[(first + q0 + r) * WIDTH + q_at + d8] : uvec4(0);
}

uvec4 key(uint j, uint d8) {
    return j < len ? qkv[(first + j) * WIDTH + k_at + d8] : uvec4(0);
}

uvec4 value(uint j, uint d8) {
    return j < len ? qkv[(first + j) * WIDTH + v_at + d8] : uvec4(0);
}

uvec2 sees(uint r) {
    uint low = 0;
    uint high = len;
#if OPT_WINDOW > 0
    low = q0 + r > OPT_WINDOW ? q0 + r - OPT_WINDOW : 0;
    high = min(high, q0 + r + OPT_WINDOW + 1);
#endif
#if OPT_CAUSAL
    high = min(high, q0 + r + 1);
#endif
    return uvec2(low, high);
}

void result(uint r, uint d8, uvec4 v) {
    if (q0 + r < len) {
        y[(first + q0 + r) * (OPT_HEADS * D / 8) + q_at + d8] = v;
    }
}

#include "include/flash.glsl"

void main() {
    uint head = gl_WorkGroupID.x;
    first = spans[gl_WorkGroupID.z].x;
    len = min(spans[gl_WorkGroupID.z].y, m - min(first, m));
#if OPT_CAUSAL
    // The last queries see most: their tiles start first.
    q0 = (gl_NumWorkGroups.y - 1 - gl_WorkGroupID.y) * TILE_Q;
#else
    q0 = gl_WorkGroupID.y * TILE_Q;
#endif
    if (q0 >= len) {
        return;
    }
    q_at = head * D / 8;
    k_at = (OPT_HEADS + head / (OPT_HEADS / OPT_KV_HEADS)) * D / 8;
    v_at = k_at + OPT_KV_HEADS * D / 8;

    // Keys that some query of this tile can see.
    uint from = 0;
    uint to = len;
#if OPT_WINDOW > 0
    from = q0 > OPT_WINDOW ? (q0 - OPT_WINDOW) / TILE_K * TILE_K : 0;
    to = min(to, q0 + TILE_Q + OPT_WINDOW);
#endif
#if OPT_CAUSAL
    to = min(to, q0 + TILE_Q);
#endif
    flash(from, to, scale);
}
