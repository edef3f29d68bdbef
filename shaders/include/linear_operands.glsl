// The operands of `linear` in f32, four neighbours at a time.

// x[row, 4 * k4 .. 4 * k4 + 4], not yet times the gain; both inside x.
vec4 x_inside(uint row, uint k4) {
#if VEC == 4
    return vec4(x[row * (k / 4) + k4]);
#else
    vec4 v = vec4(0.0);
    for (uint i = 0; i < 4; i++) {
        if (4 * k4 + i < k) {
            v[i] = float(x[row * k + 4 * k4 + i]);
        }
    }
    return v;
#endif
}

// The factors of x[.., 4 * k4 .. 4 * k4 + 4].
vec4 gain_inside(uint k4) {
#if !HAS_GAIN
    return vec4(1.0);
#elif VEC == 4
    return gain[k4];
#else
    vec4 v;
    for (uint i = 0; i < 4; i++) {
        v[i] = gain[min(4 * k4 + i, k - 1)];
    }
    return v;
#endif
}

#ifndef W_BY_16_BYTES
// w[column, 4 * k4 .. 4 * k4 + 4]; inside w.
vec4 w_inside(uint column, uint k4) {
#if W_INT8
    uint at = tiled_element(column, 4 * k4, n, k, 16);
    return float(w_scale[int8_group(n * k, at, W_GROUP)]) * int8_values(w[at / 4]);
#elif W_INT4
    uint at = tiled_element(column, 4 * k4, n, k, 32);
    vec2 scale = vec2(w_scale[int4_group(n * k, at, W_GROUP)]);
    return scale.x * int4_values(w[at / 8] >> 16 * (k4 % 2)) + scale.y;
#elif VEC == 4
    return vec4(w[column * (k / 4) + k4]);
#else
    vec4 v = vec4(0.0);
    for (uint i = 0; i < 4; i++) {
        if (4 * k4 + i < k) {
            v[i] = float(w[column * k + 4 * k4 + i]);
        }
    }
    return v;
#endif
}

// The same with zeros past the edges.
vec4 load_w(uint column, uint k4) {
    return column < n && 4 * k4 < k ? w_inside(column, k4) : vec4(0.0);
}
#endif

vec4 load_x(uint row, uint k4) {
    return row < m && 4 * k4 < k ? x_inside(row, k4) : vec4(0.0);
}
