// What `append_attention` does before attention: of the joint projection of a row the query heads that share a key head, that
// key head and its value head, numbered in this order, each normalised and turned as `rope_append` does it.
//
// The includer has GROUP and `include/cached.glsl`.
#include "heads.glsl"

// Heads of a workgroup; those before KEY are queries.
const uint KEY = GROUP;
const uint VALUE = GROUP + 1;
const uint FRESH = GROUP + 2;

// Where head `head` of them begins in the joint projection.
uint fresh_at(uint row, uint kv_head, uint head) {
    uint of_row = head < KEY ? kv_head * GROUP + head : OPT_HEADS + (head - KEY) * OPT_KV_HEADS + kv_head;
    return (row * (OPT_HEADS + 2 * OPT_KV_HEADS) + of_row) * D;
}

// Whether it is divided by the root of its mean square.
bool is_normed(uint head) {
    return HAS_Q_NORM == 1 && head < KEY || HAS_K_NORM == 1 && head == KEY;
}

// What multiplies the adjacent pair that starts at `column` of it, if it is.
vec2 norm_weight(uint head, uint column) {
    vec2 weight = vec2(1.0);
#if HAS_Q_NORM
    if (head < KEY) {
        weight = vec2(q_norm[column], q_norm[column + 1]);
    }
#endif
#if HAS_K_NORM
    if (head == KEY) {
        weight = vec2(k_norm[column], k_norm[column + 1]);
    }
#endif
    return weight;
}
