// What follows on the products of `linear`. It works on four neighbouring columns of one row, so that RoPE pairs and
// (gate, up) pairs stay together.

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
void append(uint row, uint column, float value) {
    uint kv_width = kv_heads * head_dim;
    bool is_value = column >= kv_width;
    column -= is_value ? kv_width : 0;
    uint slot = slots[row / rows_per_sequence];
    uint position = positions[row];
    if (slot < slots_n && position < ctx) {
        uint at = ((slot * kv_heads + column / head_dim) * ctx + position) * head_dim + column % head_dim;
        if (is_value) {
            v_cache[at] = C(value);
        } else {
            k_cache[at] = C(value);
        }
    }
}
#endif

#if HAS_POSITIONS
// Two neighbours, the first of which is column `column` of all columns.
vec2 turned(vec2 pair, uint row, uint column) {
    if (column >= OPT_ROPE_HEADS * OPT_ROPE_HEAD_DIM) {
        return pair;
    }
    uint in_head = column % OPT_ROPE_HEAD_DIM;
    float position = positions[row] == NONE ? 0.0 : float(positions[row]) * rope_scale;
#if HAS_ROPE_FACTORS
    position /= rope_factors[in_head / 2];
#endif
    return rotate(pair, in_head, OPT_ROPE_HEAD_DIM, position, rope_theta);
}
#endif

// Writes what follows from the products of `row` with columns `column .. column + 4`; `column` is a multiple of 4.
void finish(uint row, uint column, vec4 acc) {
    if (row >= m || column >= n) {
        return;
    }
#if HAS_BIAS
    [[unroll]] for (uint i = 0; i < 4; i++) {
        acc[i] += column + i < n ? bias[GATES * first + column + i] : 0.0;
    }
#endif
#if HAS_POSITIONS
    acc.xy = turned(acc.xy, row, GATES * first + column);
    acc.zw = turned(acc.zw, row, GATES * first + column + 2);
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
    if (out_column + OUTS > width) {
        [[unroll]] for (uint i = 0; i < OUTS; i++) {
            if (out_column + i < width) {
                before_norm[row * width + out_column + i] = S(values[i]);
            } else if (column + i < n) {
                append(row, out_column + i - width, values[i]);
            }
        }
        return;
    }
#endif
    uint at = row * width + first + out_column;
    // One access for the whole vector where every vector of y stands on its own boundary.
    if ((width | first | n / GATES) % OUTS == 0) {
#if HAS_RESIDUAL
        values += OUT(residual_vectors[at / OUTS]);
#endif
        before_norm_vectors[at / OUTS] = OUT_S(values);
        return;
    }
    [[unroll]] for (uint i = 0; i < OUTS; i++) {
        if (out_column + i < n / GATES) {
#if HAS_RESIDUAL
            values[i] += float(residual[at + i]);
#endif
            before_norm[at + i] = S(values[i]);
        }
    }
}
