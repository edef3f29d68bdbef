// Attention for devices with narrow subgroups, which are CPUs: there a load from memory, shared or not, is done lane
// by lane, and only values in registers are handled by whole vectors. So nothing is shared through memory: a workgroup
// is one subgroup, each lane loads one key of a block of LANES keys, and the others get it by a broadcast.
//
// FlashAttention (Dao et al. 2022) as in attention.comp, with ROWS queries a lane and online softmax over blocks of keys.
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_KHR_shader_subgroup_ballot : require
#include "include/storage.glsl"

layout(local_size_x = LOCAL_X) in;

layout(binding = BIND_QKV) readonly buffer In0 { A4 qkv[]; };
layout(binding = BIND_SPANS) readonly buffer In1 { uvec2 spans[]; };
layout(binding = BIND_Y) writeonly buffer Out { A4 y[]; };
layout(push_constant) uniform Push { uint m; float scale; };

const uint D4 = OPT_HEAD_DIM / 4;
const uint WIDTH_QKV = (OPT_HEADS + 2 * OPT_KV_HEADS) * D4;
const float LOG2_E = 1.4426950408889634;

void main() {
    uint head = gl_WorkGroupID.y;
    uint kv_head = head / (OPT_HEADS / OPT_KV_HEADS);
    uint first = spans[gl_WorkGroupID.z].x;
    uint len = min(spans[gl_WorkGroupID.z].y, m - min(first, m));
    uint q0 = gl_WorkGroupID.x * LANES * ROWS;
    if (q0 >= len) {
        return;
    }
    uint k_column = (OPT_HEADS + kv_head) * D4;
    uint v_column = (OPT_HEADS + OPT_KV_HEADS + kv_head) * D4;
    uint lane = gl_SubgroupInvocationID;

    // Keys that some query of this workgroup can see.
    uint from = 0;
    uint to = len;
#if OPT_WINDOW > 0
    from = q0 > OPT_WINDOW ? q0 - OPT_WINDOW : 0;
    to = min(to, q0 + LANES * ROWS + OPT_WINDOW);
#endif
#if OPT_CAUSAL
    to = min(to, q0 + LANES * ROWS);
#endif

    // Past the end the last query is computed again and not written.
    vec4 q[ROWS][D4];
    vec4 o[ROWS][D4];
    float peak[ROWS];
    float total[ROWS];
    uint low[ROWS];
    uint high[ROWS];
    [[unroll]] for (uint r = 0; r < ROWS; r++) {
        uint query = min(q0 + r * LANES + lane, len - 1);
        [[unroll]] for (uint d = 0; d < D4; d++) {
            q[r][d] = vec4(qkv[(first + query) * WIDTH_QKV + head * D4 + d]) * (scale * LOG2_E);
            o[r][d] = vec4(0.0);
        }
        peak[r] = -1.0e30;
        total[r] = 0.0;
        low[r] = 0;
        high[r] = len;
#if OPT_WINDOW > 0
        low[r] = query > OPT_WINDOW ? query - OPT_WINDOW : 0;
        high[r] = min(len, query + OPT_WINDOW + 1);
#endif
#if OPT_CAUSAL
        high[r] = min(high[r], query + 1);
#endif
    }

    for (uint k0 = from; k0 < to; k0 += LANES) {
        uint row = (first + min(k0 + lane, len - 1)) * WIDTH_QKV;
        float s[ROWS][LANES];
        [[unroll]] for (uint r = 0; r < ROWS; r++) {
            [[unroll]] for (uint j = 0; j < LANES; j++) {
                s[r][j] = 0.0;
            }
        }
        [[unroll]] for (uint d = 0; d < D4; d++) {
            vec4 own = vec4(qkv[row + k_column + d]);
            [[unroll]] for (uint j = 0; j < LANES; j++) {
                vec4 key = subgroupBroadcast(own, j);
                [[unroll]] for (uint r = 0; r < ROWS; r++) {
                    s[r][j] += dot(q[r][d], key);
                }
            }
        }
        [[unroll]] for (uint r = 0; r < ROWS; r++) {
            float before = peak[r];
            [[unroll]] for (uint j = 0; j < LANES; j++) {
                bool seen = k0 + j >= low[r] && k0 + j < high[r];
                s[r][j] = seen ? s[r][j] : -2.0e30;
                peak[r] = max(peak[r], s[r][j]);
            }
            float decay = exp2(before - peak[r]);
            total[r] *= decay;
            [[unroll]] for (uint j = 0; j < LANES; j++) {
                // Zero where the key is not seen, also as long as no key was.
                s[r][j] = exp2(s[r][j] - peak[r]);
                total[r] += s[r][j];
            }
            [[unroll]] for (uint d = 0; d < D4; d++) {
                o[r][d] *= decay;
            }
        }
        [[unroll]] for (uint d = 0; d < D4; d++) {
            vec4 own = vec4(qkv[row + v_column + d]);
            [[unroll]] for (uint j = 0; j < LANES; j++) {
                vec4 value = subgroupBroadcast(own, j);
                [[unroll]] for (uint r = 0; r < ROWS; r++) {
                    o[r][d] += s[r][j] * value;
                }
            }
        }
    }

    [[unroll]] for (uint r = 0; r < ROWS; r++) {
        uint query = q0 + r * LANES + lane;
        if (query < len) {
            float inverse = 1.0 / total[r];
            [[unroll]] for (uint d = 0; d < D4; d++) {
                y[(first + query) * OPT_HEADS * D4 + head * D4 + d] = A4(o[r][d] * inverse);
            }
        }
    }
}
