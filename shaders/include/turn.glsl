// How far RoPE turns a pair of a head (Su et al. 2021), with a factor for each pair if they are bound. The includer has
// `include/math.glsl` and NONE, the position of a row that holds no token.
#if HAS_ROPE_FACTORS
layout(binding = BIND_ROPE_FACTORS) RELAY_EARLY readonly buffer RopeFactors { float rope_factors[]; };
#endif

// Cosine and sine for the adjacent pair that starts at `column` of a head of `dims`.
vec2 turn_of(uint position, uint column, uint dims, float theta, float scale) {
    float angle = position == NONE ? 0.0 : float(position) * scale;
#if HAS_ROPE_FACTORS
    angle /= rope_factors[column / 2];
#endif
    return rotation(column, dims, angle, theta);
}
