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

bool sees(uint r, uint j) {
    bool seen = j < len;
#if OPT_CAUSAL
    seen = seen && j <= q0 + r;
#endif
#if OPT_WINDOW > 0
    seen = seen && abs(int(q0 + r) - int(j)) <= OPT_WINDOW;
#endif
    return seen;
}

void result(uint r, uint d8, uvec4 v) {
    if (q0 + r < len) {
        y[(first + q0 + r) * (OPT_HEADS * D / 8) + q_at + d8] = v;
    }
}

#include "include/flash_matrix.glsl"

void main() {
    uint head = gl_WorkGroupID.y;
    first = spans[gl_WorkGroupID.z].x;
    len = min(spans[gl_WorkGroupID.z].y, m - min(first, m));
    q0 = gl_WorkGroupID.x * TILE_Q;
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
