// FlashAttention (Dao et al. 2022) over a cache: for TILE_Q rows of one head, walk the places in tiles and keep a
// running maximum, a running sum and an unnormalised output (online softmax, Milakov and Gimelshein 2018). The score
// matrix exists only as one TILE_Q x TILE_K tile in shared memory.
//
// Both products, S = Q K^T and O += P V, use the same 4 x 4 register block an invocation; head dimensions go through
// shared memory in chunks of CHUNK, so that any head_dim fits.
#version 460
#extension GL_GOOGLE_include_directive : require
#if A_F16 || C_F16 || C_INT8
#extension GL_EXT_shader_16bit_storage : require
#endif
#include "include/storage.glsl"

layout(constant_id = 0) const uint TILE_Q = 64;
layout(local_size_x = LOCAL_X) in;
#include "include/cached.glsl"

const uint CHUNK = 32;
const uint TILE_K = CHUNK;
const uint CHUNKS = (D + CHUNK - 1) / CHUNK;

shared float tile_q[TILE_Q * (CHUNK + 1)];
shared float tile_kv[TILE_K * (CHUNK + 1)];
shared float tile_p[TILE_Q * (TILE_K + 1)];
shared float row_max[TILE_Q];
shared float row_sum[TILE_Q];
shared float row_decay[TILE_Q];
shared uint row_start[TILE_Q];
shared uint row_end[TILE_Q];
shared uint tile_start;
shared uint tile_end;

#define QUERY(i) float(q[i])
#if C_INT8
#define KEY(i) (float(bitfieldExtract(int(k_cache[(i) / 4]), int((i) % 4 * 8), 8)) * k_scale_of(i))
#define VALUE(i) (float(bitfieldExtract(int(v_cache[(i) / 4]), int((i) % 4 * 8), 8)) * v_scale_of(i))
#else
#define KEY(i) float(k_cache[i])
#define VALUE(i) float(v_cache[i])
#endif

// Columns CHUNK * c .. of rows `first ..` (which begin at `base` and are `stride` apart), zeros past row `end` or column D.
#define LOAD_CHUNK(tile, source, count, base, stride, first, end, c) \
    for (uint e = gl_LocalInvocationID.x; e < (count) * CHUNK; e += LOCAL_X) { \
        uint r = e / CHUNK; \
        uint d = (c) * CHUNK + e % CHUNK; \
        bool inside = (first) + r < (end) && d < D; \
        tile[r * (CHUNK + 1) + e % CHUNK] = inside ? source((base) + ((first) + r) * (stride) + d) : 0.0; \
    }

void main() {
    uint head = gl_WorkGroupID.y;
    uint kv_head = head / (OPT_HEADS / OPT_KV_HEADS);
    uint sequence = gl_WorkGroupID.z;
    uint q0 = gl_WorkGroupID.x * TILE_Q;
    uint q_base = sequence * rows * OPT_HEADS * D + head * D;
    uint kv_base = (slots[sequence] * OPT_KV_HEADS + kv_head) * ctx * D;
    uint t = gl_LocalInvocationID.x;

    // Places that some row of this tile sees.
    if (t == 0) {
        tile_start = NONE;
        tile_end = 0;
    }
    barrier();
    for (uint r = t; r < TILE_Q; r += LOCAL_X) {
        uvec2 range = q0 + r < rows ? seen(positions[sequence * rows + q0 + r]) : uvec2(0);
        row_start[r] = range.x;
        row_end[r] = range.y;
        row_max[r] = -1.0e30;
        row_sum[r] = 0.0;
        if (range.x < range.y) {
            atomicMin(tile_start, range.x);
            atomicMax(tile_end, range.y);
        }
    }
    barrier();
    uint from = tile_start / TILE_K * TILE_K;
    uint to = tile_end;

    // This invocation's block: rows 4 * my_q .., places (of S) or dims of a chunk (of O) 4 * my_k ..
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
                LOAD_CHUNK(tile_q, QUERY, TILE_Q, q_base, OPT_HEADS * D, q0, rows, c)
            }
            LOAD_CHUNK(tile_kv, KEY, TILE_K, kv_base, D, k0, to, c)
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
                tile_p[(my_q + i) * (TILE_K + 1) + my_k + j] = bend(s[i][j]);
            }
        }
        barrier();

        // Online softmax, one row an invocation, in base 2.
        for (uint r = t; r < TILE_Q; r += LOCAL_X) {
            uint low = row_start[r];
            uint high = row_end[r];
            float peak = row_max[r];
            for (uint j = 0; j < TILE_K; j++) {
                if (k0 + j >= low && k0 + j < high) {
                    peak = max(peak, tile_p[r * (TILE_K + 1) + j]);
                }
            }
            float total = 0.0;
            for (uint j = 0; j < TILE_K; j++) {
                bool inside = k0 + j >= low && k0 + j < high;
                float p = inside ? exp2(tile_p[r * (TILE_K + 1) + j] - peak) : 0.0;
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
            LOAD_CHUNK(tile_kv, VALUE, TILE_K, kv_base, D, k0, to, c)
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
            uint row = q0 + my_q + i;
            if (row < rows) {
                float total = row_sum[my_q + i];
                float inverse = total > 0.0 ? 1.0 / total : 0.0;
                [[unroll]] for (uint d = 0; d < 4; d++) {
                    uint column = c * CHUNK + my_k + d;
                    if (column < D) {
                        y[q_base + row * OPT_HEADS * D + column] = A(o[c][i][d] * inverse);
                    }
                }
            }
        }
    }
}
