// FlashAttention (Dao et al. 2022): for TILE_Q queries of one head, walk the keys in tiles and keep a running maximum,
// a running sum and an unnormalised output (online softmax, Milakov and Gimelshein 2018). The score matrix exists
// only as one TILE_Q x TILE_K tile in shared memory.
//
// Both products, S = Q K^T and O += P V, use the same 4 x 4 register block an invocation; head dimensions go through
// shared memory in chunks of CHUNK, so that any head_dim fits.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "include/storage.glsl"

layout(constant_id = 0) const uint TILE_Q = 64;
layout(local_size_x = LOCAL_X) in;

layout(binding = BIND_QKV) readonly buffer In0 { A qkv[]; };
layout(binding = BIND_SPANS) readonly buffer In1 { uvec2 spans[]; };
layout(binding = BIND_Y) writeonly buffer Out { A y[]; };
layout(push_constant) uniform Push { uint m; float scale; };

const uint D = OPT_HEAD_DIM;
const uint CHUNK = 32;
const uint TILE_K = CHUNK;
const uint CHUNKS = (D + CHUNK - 1) / CHUNK;
const uint WIDTH_QKV = (OPT_HEADS + 2 * OPT_KV_HEADS) * D;
const float LOG2_E = 1.4426950408889634;

shared float tile_q[TILE_Q * (CHUNK + 1)];
shared float tile_kv[TILE_K * (CHUNK + 1)];
shared float tile_p[TILE_Q * (TILE_K + 1)];
shared float row_max[TILE_Q];
shared float row_sum[TILE_Q];
shared float row_decay[TILE_Q];

// Columns CHUNK * c .. of rows first .. of one head (which starts at `column`), zeros past row `end` or column D.
#define LOAD_CHUNK(tile, rows, first, end, column, c) \
    for (uint e = gl_LocalInvocationID.x; e < (rows) * CHUNK; e += LOCAL_X) { \
        uint r = e / CHUNK; \
        uint d = (c) * CHUNK + e % CHUNK; \
        bool inside = (first) + r < (end) && d < D; \
        tile[r * (CHUNK + 1) + e % CHUNK] = inside ? float(qkv[((first) + r) * WIDTH_QKV + (column) + d]) : 0.0; \
    }

void main() {
    uint head = gl_WorkGroupID.y;
    uint kv_head = head / (OPT_HEADS / OPT_KV_HEADS);
    uint first = spans[gl_WorkGroupID.z].x;
    uint len = min(spans[gl_WorkGroupID.z].y, m - min(first, m));
    uint q0 = gl_WorkGroupID.x * TILE_Q;
    if (q0 >= len) {
        return;
    }
    uint q_column = head * D;
    uint k_column = (OPT_HEADS + kv_head) * D;
    uint v_column = (OPT_HEADS + OPT_KV_HEADS + kv_head) * D;

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

    uint t = gl_LocalInvocationID.x;
    for (uint r = t; r < TILE_Q; r += LOCAL_X) {
        row_max[r] = -1.0e30;
        row_sum[r] = 0.0;
    }
    // This invocation's block: queries 4 * my_q .., keys (of S) or dims of a chunk (of O) 4 * my_k ..
    // TILE_K and CHUNK are equal, so one division serves both products.
    uint my_q = 4 * (t / (TILE_K / 4));
    uint my_k = 4 * (t % (TILE_K / 4));
    vec4 o[CHUNKS][4];
    [[unroll]] for (uint c = 0; c < CHUNKS; c++) {
        [[unroll]] for (uint i = 0; i < 4; i++) {
            o[c][i] = vec4(0.0);
        }
    }

    for (uint k0 = from; k0 < to; k0 += TILE_K) {
        vec4 s[4] = vec4[4](vec4(0.0), vec4(0.0), vec4(0.0), vec4(0.0));
        for (uint c = 0; c < CHUNKS; c++) {
            barrier();
            if (CHUNKS > 1 || k0 == from) {
                LOAD_CHUNK(tile_q, TILE_Q, first + q0, first + len, q_column, c)
            }
            LOAD_CHUNK(tile_kv, TILE_K, first + k0, first + len, k_column, c)
            barrier();
            for (uint d = 0; d < CHUNK; d++) {
                vec4 k4;
                [[unroll]] for (uint j = 0; j < 4; j++) {
                    k4[j] = tile_kv[(my_k + j) * (CHUNK + 1) + d];
                }
                [[unroll]] for (uint i = 0; i < 4; i++) {
                    s[i] += tile_q[(my_q + i) * (CHUNK + 1) + d] * k4;
                }
            }
        }
        [[unroll]] for (uint i = 0; i < 4; i++) {
            [[unroll]] for (uint j = 0; j < 4; j++) {
                tile_p[(my_q + i) * (TILE_K + 1) + my_k + j] = s[i][j] * (scale * LOG2_E);
            }
        }
        barrier();

        // Online softmax, one query an invocation, in base 2.
        for (uint r = t; r < TILE_Q; r += LOCAL_X) {
            uint q = q0 + r;
            uint low = 0;
            uint high = len;
#if OPT_WINDOW > 0
            low = q > OPT_WINDOW ? q - OPT_WINDOW : 0;
            high = min(high, q + OPT_WINDOW + 1);
#endif
#if OPT_CAUSAL
            high = min(high, q + 1);
#endif
            float peak = row_max[r];
            for (uint j = 0; j < TILE_K; j++) {
                if (k0 + j >= low && k0 + j < high) {
                    peak = max(peak, tile_p[r * (TILE_K + 1) + j]);
                }
            }
            float total = 0.0;
            for (uint j = 0; j < TILE_K; j++) {
                bool seen = k0 + j >= low && k0 + j < high;
                float p = seen ? exp2(tile_p[r * (TILE_K + 1) + j] - peak) : 0.0;
                tile_p[r * (TILE_K + 1) + j] = p;
                total += p;
            }
            float decay = exp2(row_max[r] - peak);
            row_decay[r] = decay;
            row_sum[r] = row_sum[r] * decay + total;
            row_max[r] = peak;
        }
        barrier();

        [[unroll]] for (uint c = 0; c < CHUNKS; c++) {
            barrier();
            LOAD_CHUNK(tile_kv, TILE_K, first + k0, first + len, v_column, c)
            barrier();
            [[unroll]] for (uint i = 0; i < 4; i++) {
                o[c][i] *= row_decay[my_q + i];
            }
            for (uint j = 0; j < TILE_K; j++) {
                vec4 v4;
                [[unroll]] for (uint d = 0; d < 4; d++) {
                    v4[d] = tile_kv[j * (CHUNK + 1) + my_k + d];
                }
                [[unroll]] for (uint i = 0; i < 4; i++) {
                    o[c][i] += tile_p[(my_q + i) * (TILE_K + 1) + j] * v4;
                }
            }
        }
    }

    [[unroll]] for (uint c = 0; c < CHUNKS; c++) {
        [[unroll]] for (uint i = 0; i < 4; i++) {
            uint q = q0 + my_q + i;
            if (q < len) {
                float inverse = 1.0 / row_sum[my_q + i];
                [[unroll]] for (uint d = 0; d < 4; d++) {
                    uint column = c * CHUNK + my_k + d;
                    if (column < D) {
                        y[(first + q) * OPT_HEADS * D + head * D + column] = A(o[c][i][d] * inverse);
                    }
                }
            }
        }
    }
}
