// What follows on the products of `linear`. It works on four neighbouring columns of one row, so that RoPE pairs and
// (gate, up) pairs stay together.
//
// PLACES_AHEAD: whether where keys and values go to is worked out ahead of the product, too, once for four columns.
#ifndef PLACES_AHEAD
#define PLACES_AHEAD 0
#endif

// The position of a row that holds no token: such a row is computed like any other, but nothing is appended for it.
const uint NONE = 0xffffffff;

float activate(float v) {
#if ACT == ACT_RELU
    return max(v, 0.0);
#elif ACT == ACT_GELU || ACT == ACT_GEGLU
    return gelu(v);
#elif ACT == ACT_GELU_TANH || ACT == ACT_GEGLU_TANH
    return gelu_tanh(v);
#elif ACT == ACT_SILU || ACT == ACT_SWIGLU
    return silu(v);
#else
    return v;
#endif
}

// The factor of a row with that sum of squares.
float rms_scale(float squares) {
    return inversesqrt(squares / float(k) + eps);
}

#if HAS_K_CACHE
// Columns are heads of queries, keys, values: keys and values go to the caches, [slot, head, position, column].
struct CachePlace {
    bool there;
    bool is_value;
    uint at;
};

// Of column `column` behind those of the queries.
CachePlace cache_place(uint slot, uint position, uint column) {
    uint kv_width = kv_heads * head_dim;
    bool is_value = column >= kv_width;
    column -= is_value ? kv_width : 0;
    return CachePlace(slot < slots_n && position < ctx, is_value,
                      ((slot * kv_heads + column / head_dim) * ctx + position) * head_dim + column % head_dim);
}

void append(CachePlace place, float value) {
    if (place.there) {
        if (place.is_value) {
            v_cache[place.at] = C(value);
        } else {
            k_cache[place.at] = C(value);
        }
    }
}
#endif

// What `finish` reads, which a kernel can have on its way while it makes the products.
struct Ahead {
#if HAS_POSITIONS
    // Cosine and sine of both pairs.
    vec4 turns;
#endif
#if HAS_K_CACHE
    uint slot;
    uint position;
#if PLACES_AHEAD
    // Where the first column goes to.
    CachePlace place;
#endif
#endif
#if HAS_RESIDUAL
    OUT residual;
#endif
    // There is no structure without a member.
    bool nothing;
};

#if HAS_POSITIONS
#include "turn.glsl"

// How far to turn two neighbours, the first of which is column `column` of all columns.
vec2 turn(uint row, uint column) {
    if (column >= OPT_ROPE_HEADS * OPT_ROPE_HEAD_DIM) {
        return vec2(1.0, 0.0);
    }
    return turn_of(positions[row], column % OPT_ROPE_HEAD_DIM, OPT_ROPE_HEAD_DIM, rope_theta, rope_scale);
}
#endif

// Whether each vector of four columns' results stands on its own boundary in y.
bool whole_vectors() {
#ifdef WHOLE_OUT
    return WHOLE_OUT == 1;
#else
    return (width | first | n / GATES) % OUTS == 0;
#endif
}

// For columns `column .. column + 4` of `row`, and for the nearest that there are where these are past the end.
Ahead ahead(uint row, uint column) {
    row = min(row, m - 1);
    column = min(column, (n - 1) / 4 * 4);
    Ahead found;
    found.nothing = true;
#if HAS_POSITIONS
    found.turns = vec4(turn(row, GATES * first + column), turn(row, GATES * first + column + 2));
#endif
#if HAS_K_CACHE
    found.slot = slots[row / rows_per_sequence];
    found.position = positions[row];
#if PLACES_AHEAD
    found.place = cache_place(found.slot, found.position, max(column / GATES, width) - width);
#endif
#endif
#if HAS_RESIDUAL
    uint at = row * width + first + column / GATES;
    if (whole_vectors()) {
        found.residual = OUT(residual_vectors[at / OUTS]);
    } else {
        [[unroll]] for (uint i = 0; i < OUTS; i++) {
            found.residual[i] = column / GATES + i < n / GATES ? float(residual[at + i]) : 0.0;
        }
    }
#endif
    return found;
}

// Writes what follows from the products of `row` with columns `column .. column + 4`; `column` is a multiple of 4.
void finish(uint row, uint column, vec4 acc, Ahead found) {
    if (row >= m || column >= n) {
        return;
    }
#if HAS_BIAS
    [[unroll]] for (uint i = 0; i < 4; i++) {
        acc[i] += column + i < n ? bias[GATES * first + column + i] : 0.0;
    }
#endif
#if HAS_POSITIONS
    acc = vec4(rotated(acc.xy, found.turns.xy), rotated(acc.zw, found.turns.zw));
#endif
    OUT values;
    [[unroll]] for (uint i = 0; i < OUTS; i++) {
#if GATED
        values[i] = activate(acc[2 * i]) * acc[2 * i + 1];
#else
        values[i] = activate(acc[i]);
#endif
    }
    uint out_column = column / GATES;
#if HAS_K_CACHE
#if PLACES_AHEAD
    if (out_column >= width && (width | head_dim) % OUTS == 0) {
        [[unroll]] for (uint i = 0; i < OUTS; i++) {
            if (column + i < n) {
                CachePlace place = found.place;
                place.at += i;
                append(place, values[i]);
            }
        }
        return;
    }
#endif
    if (out_column + OUTS > width) {
        [[unroll]] for (uint i = 0; i < OUTS; i++) {
            if (out_column + i < width) {
                before_norm[row * width + out_column + i] = S(values[i]);
            } else if (column + i < n) {
                append(cache_place(found.slot, found.position, out_column + i - width), values[i]);
            }
        }
        return;
    }
#endif
#if HAS_RESIDUAL
    values += found.residual;
#endif
    uint at = row * width + first + out_column;
    if (whole_vectors()) {
        before_norm_vectors[at / OUTS] = OUT_S(values);
        return;
    }
    [[unroll]] for (uint i = 0; i < OUTS; i++) {
        if (out_column + i < n / GATES) {
            before_norm[at + i] = S(values[i]);
        }
    }
}

void finish(uint row, uint column, vec4 acc) {
    if (row < m && column < n) {
        finish(row, column, acc, ahead(row, column));
    }
}
